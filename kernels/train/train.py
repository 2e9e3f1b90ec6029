"""Train the folds of a recipe on Kaggle.

A template: `kit kernel build train` writes the job and the package into it, and the file then runs on Kaggle by itself.
"""

from pipeline.submit.payload import JOB, unpack

# The processes that augment pictures import this file, too.
if __name__ == "__main__":
    folder = unpack()
    from pipeline import on_kaggle

    with on_kaggle.session(JOB, folder) as session:
        session.continue_run()
        session.train()
