"""Predict a competition's test pictures on Kaggle, with the fold models of a finished experiment.

A template, as train.py is. In a code competition Kaggle runs it once more, on pictures nobody has seen.
"""

from pipeline.submit.payload import JOB, unpack

if __name__ == "__main__":
    folder = unpack()
    from pipeline import on_kaggle

    with on_kaggle.session(JOB, folder) as session:
        session.predict()
