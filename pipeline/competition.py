"""Competition: what competition.yaml says, and the layout of the competition's folder.

    competitions/<slug>/competition.yaml   this description            (committed)
    competitions/<slug>/folds.csv          id, fold                    (committed)
    competitions/<slug>/quarantine.csv     id, reason: rows left out   (committed, where there are any)
    competitions/<slug>/pseudo/<name>.csv  pseudo-labels               (committed, where there are any)
    competitions/<slug>/groups.csv         id, group: kept together    (committed, where there are any)
    competitions/<slug>/solution.csv       labels that a rehearsal scores against (where there are any)
    competitions/<slug>/explore/           `kit explore`: page, plots, tables, facts  (ignored)
    competitions/<slug>/data/              the data, or a link to it   (ignored)

Every path inside competition.yaml is relative to data/, so that the file holds on any machine. An absolute one
is taken, too, such as that of extra pictures where data/ is a link to a folder that is not to be touched.
Reading the data itself belongs to `data/index.py`.
"""

import csv
import difflib
import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from pipeline.errors import DataError
from pipeline.settings import NAME, Settings, explain, read_mapping

MetricName = Literal["accuracy", "log_loss", "macro_f1", "quadratic_kappa", "roc_auc"]
Match = Literal["path", "name", "stem"]


class Split(Settings):
    """A column of the train table that says what each row is for."""

    column: str
    train: str = "train"
    held_out: str = "valid"
    test: str | None = None


class LabelledPictures(Settings):
    """Pictures and where their labels are.

    Without a table, the folder a picture lies in is its label and its path inside data/ is its id.

    Attributes:
        pictures: Folder of the pictures, searched with its subfolders.
        table: CSV with a row a picture.
        match: How `id_column` names a file: by its `path` from `pictures`, its file `name` or its `stem`.
    """

    pictures: str
    table: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    match: Match = "name"

    @model_validator(mode="after")
    def _table_and_columns(self) -> Self:
        if self.table and not (self.id_column and self.label_column):
            raise ValueError("with a table, id_column and label_column must be given")
        if not self.table and (self.id_column or self.label_column):
            raise ValueError("id_column and label_column have no effect without a table")
        return self


class TrainData(LabelledPictures):
    """Where the pictures to learn from are.

    Attributes:
        held_out_pictures: A second folder like `pictures`, held out for validation as one predefined fold.
        group_column: Rows of one group are never divided between folds.
    """

    held_out_pictures: str | None = None
    group_column: str | None = None
    split: Split | None = None

    @model_validator(mode="after")
    def _table_or_folders(self) -> Self:
        if not self.table and (self.group_column or self.split):
            raise ValueError("group_column and split have no effect without a table")
        if self.table and self.held_out_pictures:
            raise ValueError("held_out_pictures has no effect with a table; use split")
        return self


class TestData(Settings):
    """Where the pictures to predict are; their ids are those of the sample submission, where there is one."""

    pictures: str
    match: Match = "name"


class Competition(Settings):
    """What competition.yaml says.

    Attributes:
        submission: What a submission holds: the predicted `class`, or `probabilities`, a column a class.
        extra: By name, further pictures that a recipe may train on, too; they are never held out.
        folds: How many folds are made, where the data has no predefined split.
        folder: `competitions/<slug>`; not part of the file.
    """

    slug: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    metric: MetricName = "accuracy"
    train: TrainData
    test: TestData | None = None
    extra: dict[Annotated[str, Field(pattern=f"^{NAME}$")], LabelledPictures] = Field(default_factory=dict)
    sample_submission: str | None = None
    submission: Literal["class", "probabilities"] = "class"
    folds: int = Field(default=5, ge=2)
    fold_seed: int = Field(default=0, ge=0)
    folder: Path = Field(default=Path("."), exclude=True)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def file(self) -> Path:
        """What it was read from."""
        return self.folder / "competition.yaml"

    @property
    def folds_file(self) -> Path:
        return self.folder / "folds.csv"

    @property
    def quarantine_file(self) -> Path:
        return self.folder / "quarantine.csv"

    def pseudo_file(self, name: str) -> Path:
        """The table of these pseudo-labels; what they were made from stands in a JSON file beside it."""
        return self.folder / "pseudo" / f"{name}.csv"

    @property
    def groups_file(self) -> Path:
        return self.folder / "groups.csv"

    def to_yaml(self) -> str:
        content = self.model_dump(mode="json", exclude_none=True, exclude=set() if self.extra else {"extra"})
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def competition_folder(slug: str, *, root: Path) -> Path:
    return root / "competitions" / slug


def folds_sha256(file: Path) -> str | None:
    """`Folds.sha256` of a folds.csv, found without pandas; None where there is none that can be read."""
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = sorted((row["id"], row["fold"]) for row in csv.DictReader(opened))
    except (OSError, ValueError, KeyError, csv.Error):
        return None
    return hashlib.sha256("".join(f"{key},{fold}\n" for key, fold in rows).encode()).hexdigest()


def in_rehearsal(command: str, slug: str, *, root: Path) -> str:
    """A command as it is to be typed so that it runs in a rehearsal of this competition."""
    if slug == "demo":
        return f"kit rehearse -- {command}"
    is_there = (competition_folder(slug, root=root) / "solution.csv").is_file()
    return f"kit rehearse --competition {slug} {'' if is_there else '--solution CSV '}-- {command}"


def list_competitions(root: Path) -> list[str]:
    """Slugs of the competitions in this workspace, sorted."""
    return sorted(file.parent.name for file in root.glob("competitions/[!.]*/competition.yaml"))


def load_competition(slug: str, *, root: Path) -> Competition:
    """Read `competitions/<slug>/competition.yaml`.

    Raises:
        DataError: There is no such competition, or its file does not hold.
    """
    folder = competition_folder(slug, root=root)
    file = folder / "competition.yaml"
    if not file.is_file():
        known = list_competitions(root)
        close = difflib.get_close_matches(slug, known, n=1)
        raise DataError(
            f"there is no competition {slug!r} here ({file} does not exist)",
            expected="one of " + ", ".join(known) if known else "a competition made with `kit init`",
            next_step=f"did you mean {close[0]!r}?" if close else f"kit init {slug} --data FOLDER",
        )
    content = read_mapping(file)
    if content.get("slug", slug) != slug or "folder" in content:
        raise DataError(
            f"{file} is of the competition {content.get('slug')!r}"
            if "folder" not in content
            else f"{file} has a setting `folder`, which is the folder the file is in",
            expected=f"slug: {slug}, as the folder is named, and no folder",
            next_step="mend the file",
        )
    try:
        return Competition.model_validate({**content, "folder": folder})
    except ValidationError as error:
        raise DataError(
            f"{file} has mistakes:\n{explain(error, Competition)}",
            expected="the settings described in pipeline/competition.py",
            next_step="mend the file",
        ) from None
