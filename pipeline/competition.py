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
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from pipeline.errors import DataError
from pipeline.settings import NAME, Settings, explain, read_mapping

Needs = Literal["labels", "probabilities", "ranking"]
METRIC_NEEDS: dict[str, Needs] = {
    "accuracy": "labels",
    "balanced_accuracy": "labels",
    "macro_f1": "labels",
    "micro_f1": "labels",
    "sample_f1": "labels",
    "matthews": "labels",
    "quadratic_kappa": "labels",
    "log_loss": "probabilities",
    "weighted_log_loss": "probabilities",
    "brier": "probabilities",
    "roc_auc": "probabilities",
    "partial_roc_auc@T": "probabilities",
    "map@K": "ranking",
    "top_K_accuracy": "ranking",
}
"""What each metric looks at. T is the least true-positive rate, as in 0.8; K how many names count, as in 5."""
SINGLE_ONLY = {"balanced_accuracy", "matthews", "quadratic_kappa", "weighted_log_loss", "map@K", "top_K_accuracy"}
Match = Literal["path", "path_stem", "name", "stem", "number"]
Target = Literal["single", "multilabel"]
Form = Literal["class", "probability", "probabilities", "names", "ranked", "long"]
TAKES: dict[Form, tuple[set[Needs], set[Target]]] = {
    "class": ({"labels"}, {"single"}),
    "probability": ({"probabilities"}, {"single"}),
    "probabilities": ({"labels", "probabilities", "ranking"}, {"single", "multilabel"}),
    "names": ({"labels"}, {"multilabel"}),
    "ranked": ({"ranking"}, {"single"}),
    "long": ({"labels", "probabilities", "ranking"}, {"single", "multilabel"}),
}
"""Which metrics and which targets each form of a submission is for."""


def metric_kind(name: str) -> str | None:
    """The key of `METRIC_NEEDS` that a metric's name is of: `map@K` for `map@5`; None where there is none."""
    kind = re.sub(r"^map@[1-9][0-9]*$", "map@K", name)
    kind = re.sub(r"^top_[1-9][0-9]*_accuracy$", "top_K_accuracy", kind)
    kind = re.sub(r"^partial_roc_auc@0?\.[0-9]+$", "partial_roc_auc@T", kind)
    return kind if kind in METRIC_NEEDS and (kind == name) == (not re.search("[@_][KT]", kind)) else None


class Split(Settings):
    """A column of the train table that says what each row is for."""

    column: str
    train: str = "train"
    held_out: str = "valid"
    test: str | None = None


def _can_be_a_path(path: str) -> str:
    if "\0" in path or any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in path.split("/")):
        raise ValueError("is no path: a name in it is longer than 255 bytes, or holds a zero byte")
    return path


DataPath = Annotated[str, AfterValidator(_can_be_a_path)]


class LabelledPictures(Settings):
    """Pictures and where their labels are.

    Without a table, the folder a picture lies in is its label, or its path says it by `label_pattern`, and its path
    inside data/ is its id.

    Attributes:
        pictures: Folder of the pictures, searched with its subfolders.
        table: CSV with a row a picture.
        match: How `id_column` names a file: by its `path` from `pictures`, with suffix or without (`path_stem`), by
            its file `name`, its `stem`, or the `number` that its stem is, whatever zeros stand before it.
        label_columns: Columns of 0 and 1, one a class, instead of a label column.
        label_separator: What stands between the names, where a label column holds several.
        label_pattern: Regular expression with a group `label`, found in the path from `pictures`.
    """

    pictures: DataPath
    table: DataPath | None = None
    id_column: str | None = None
    label_column: str | None = None
    label_columns: tuple[str, ...] = ()
    label_separator: str | None = Field(default=None, min_length=1)
    label_pattern: str | None = None
    match: Match = "name"

    @model_validator(mode="after")
    def _table_and_columns(self) -> Self:
        if self.table and not (self.id_column and bool(self.label_column) != bool(self.label_columns)):
            raise ValueError("with a table, id_column and one of label_column and label_columns must be given")
        if not self.table and (self.id_column or self.label_column or self.label_columns):
            raise ValueError("id_column, label_column and label_columns have no effect without a table")
        if self.label_separator and not self.label_column:
            raise ValueError("label_separator has no effect without a label_column")
        if len(self.label_columns) == 1 or len(set(self.label_columns)) < len(self.label_columns):
            raise ValueError("label_columns are two or more, each named once")
        return self

    @field_validator("label_pattern")
    @classmethod
    def _has_a_group(cls, pattern: str | None, info: ValidationInfo) -> str | None:
        if pattern is None:
            return None
        if info.data.get("table"):
            raise ValueError("label_pattern has no effect with a table")
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if "label" not in groups:
            raise ValueError("has no group named label, as in '(?P<label>[a-z]+)'")
        return pattern


class TrainData(LabelledPictures):
    """Where the pictures to learn from are.

    Attributes:
        held_out_pictures: A second folder like `pictures`, held out for validation as one predefined fold.
        group_column: Rows of one group are never divided between folds.
    """

    held_out_pictures: DataPath | None = None
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

    pictures: DataPath
    match: Match = "name"


class Competition(Settings):
    """What competition.yaml says.

    Attributes:
        metric: A name of `METRIC_NEEDS`, or a file beside competition.yaml such as metric.py, with Kaggle's `score`.
        greater_is_better: Of a metric in a file, which does not say so itself.
        class_weights: Of `weighted_log_loss`: by class, 1 for those not named.
        target: Whether a picture is of a `single` class or of any number of them.
        submission: What a submission holds: the predicted `class`; the `probability` of the class `positive`;
            `probabilities`, a column a class (0 and 1, where several labels are cut); the `names` of all classes found;
            the `top` names `ranked`; or in `long` form a row a picture and class, with ids as in `cat.jpg_dog`.
        positive: By default "1", where the classes are "0" and "1".
        top: How many names a `ranked` submission holds.
        sample_id_column: The sample submission's column of ids; by default its first.
        separator: What stands between names in a submission, and between picture and class in a `long` one's ids.
        extra: By name, further pictures that a recipe may train on, too; they are never held out.
        folds: How many folds are made, where the data has no predefined split.
        folder: `competitions/<slug>`; not part of the file.
    """

    slug: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    metric: DataPath = "accuracy"
    greater_is_better: bool | None = None
    class_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    target: Target = "single"
    train: TrainData
    test: TestData | None = None
    extra: dict[Annotated[str, Field(pattern=f"^{NAME}$")], LabelledPictures] = Field(default_factory=dict)
    sample_submission: DataPath | None = None
    sample_id_column: str | None = None
    submission: Form = "class"
    positive: str | None = None
    top: int = Field(default=5, ge=1)
    separator: str = Field(default=" ", min_length=1)
    folds: int = Field(default=5, ge=2)
    fold_seed: int = Field(default=0, ge=0, lt=2**32)
    folder: Path = Field(default=Path("."), exclude=True)

    @field_validator("metric")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if metric_kind(name) is None and not re.fullmatch(r"[\w.-]+\.py", name):
            close = difflib.get_close_matches(name, METRIC_NEEDS, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(f"is no metric; {hint}there are {', '.join(METRIC_NEEDS)}, or a file metric.py")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """A metric that ranks or measures probabilities is never given labels, and the like."""
        kind, (metrics, targets) = metric_kind(self.metric), TAKES[self.submission]
        if kind and METRIC_NEEDS[kind] not in metrics:
            forms = [form for form, (needs, known) in TAKES.items() if METRIC_NEEDS[kind] in needs]
            raise ValueError(
                f"{self.metric} looks at {METRIC_NEEDS[kind]}, which a submission of the form `{self.submission}` does "
                f"not hold; with this metric `submission` is one of {', '.join(forms)}"
            )
        if self.target not in targets or (self.target == "multilabel" and kind in SINGLE_ONLY):
            what = self.metric if self.target in targets else f"a submission of the form `{self.submission}`"
            raise ValueError(f"{what} is not for a {self.target} target")
        counted = int(re.sub("[^0-9]", "", self.metric) or 0) if kind in ("map@K", "top_K_accuracy") else 0
        if self.submission == "ranked" and counted > self.top:
            raise ValueError(
                f"{self.metric} counts {counted} names, and a submission holds {self.top}: set top: {counted}"
            )
        if self.target == "single" and self.train.label_separator:
            raise ValueError("label_separator has no effect on a single target; several names need target: multilabel")
        if self.target == "multilabel" and not (self.train.label_separator or self.train.label_columns):
            raise ValueError("a multilabel target needs train.label_columns or train.label_separator")
        if self.positive is not None and self.submission != "probability":
            raise ValueError("positive has no effect without `submission: probability`")
        if self.class_weights and self.metric != "weighted_log_loss":
            raise ValueError("class_weights has no effect without `metric: weighted_log_loss`")
        if (self.greater_is_better is None) != (kind is not None):
            raise ValueError(
                f"greater_is_better has no effect on {self.metric}, of which it is known"
                if kind
                else "a metric in a file needs greater_is_better: true or false"
            )
        return self

    @property
    def cuts_labels(self) -> bool:
        """Whether a submission holds those of several labels whose probability is above a threshold."""
        kind = metric_kind(self.metric)
        return self.target == "multilabel" and (
            self.submission == "names" or (kind is not None and METRIC_NEEDS[kind] == "labels")
        )

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def metric_file(self) -> Path | None:
        """The file of a metric of its own; None for a metric of the kit's."""
        return self.folder / self.metric if metric_kind(self.metric) is None else None

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
        unused = {"top"} if self.submission != "ranked" else set()
        unused |= {"separator"} if self.submission not in ("names", "ranked", "long") else set()
        content = self.model_dump(mode="json", exclude_none=True, exclude=unused)
        return yaml.safe_dump(_without_empty(content), sort_keys=False, allow_unicode=True)


def _without_empty(content: dict[str, Any]) -> dict[str, Any]:
    inner = {key: _without_empty(value) if isinstance(value, dict) else value for key, value in content.items()}
    return {key: value for key, value in inner.items() if value not in ({}, [])}


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
