"""What the user decides where the data leaves it open: the options of `kit init`."""

from dataclasses import dataclass

from pipeline.competition import Form, Target


@dataclass(frozen=True)
class Wishes:
    """Each field is the option of `kit init` of that name; None where the data is to tell."""

    table: str | None = None
    sample: str | None = None
    pictures: str | None = None
    test_pictures: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    label_columns: tuple[str, ...] = ()
    label_separator: str | None = None
    label_pattern: str | None = None
    group_column: str | None = None
    group_pattern: str | None = None
    target: Target | None = None
    submission: Form | None = None
    positive: str | None = None
    top: int | None = None
    metric: str | None = None
    folds: int = 5
