"""A session on Kaggle: how long it lasts, and how much of it the kit's kernel leaves for the end."""

SESSION_HOURS = 12.0
"""Kaggle's limit."""

_SHARE, _SECONDS = 0.05, 15.0


def training_seconds(session: float) -> float:
    """How many seconds of a session are for training.

    The rest, 5 % and 15 seconds at least, is kept for drawing, writing and uploading the output.
    """
    return session - max(_SHARE * session, _SECONDS)
