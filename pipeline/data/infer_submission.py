"""What a submission holds, by the sample submission; the metric, as assumed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from pipeline.competition import METRIC_NEEDS, TAKES, Form, Needs, Target, metric_kind
from pipeline.data.infer_labels import SEPARATORS, names_of
from pipeline.data.infer_wishes import Wishes
from pipeline.data.keyed_tables import two_readings
from pipeline.data.row_labels import split_long
from pipeline.errors import DataError, name_some
from pipeline.targets import class_names

_LONG_SEPARATORS = ("_", "-", " ", ":", "/", ".")
_ASSUMED: dict[tuple[Form, Target], str] = {
    ("class", "single"): "accuracy",
    ("probability", "single"): "roc_auc",
    ("probabilities", "single"): "log_loss",
    ("probabilities", "multilabel"): "roc_auc",
    ("names", "multilabel"): "sample_f1",
    ("ranked", "single"): "map@K",
    ("long", "single"): "log_loss",
    ("long", "multilabel"): "log_loss",
}


@dataclass(frozen=True)
class Submission:
    """What a submission holds; `why` and `doubts` as in `Reading`."""

    form: Form
    why: str
    metric: str = ""
    positive: str | None = None
    top: int | None = None
    separator: str | None = None
    doubts: tuple[str, ...] = ()


def choose_sample(tables: Collection[str], wish: str | None, train: str | None) -> tuple[str | None, str]:
    """The sample submission's name, and why it is that.

    Args:
        wish: The one that the user names.
        train: The train table that the user names, which is none.

    Raises:
        DataError: There is none of that name, or two may be it.
    """
    if wish:
        if wish not in tables:
            listed = name_some(tables, limit=20) or "no table at all"
            raise DataError(f"there is no table {wish!r}", expected=f"one of {listed}", next_step="check --sample")
        return wish, "--sample"
    others = [name for name in tables if name != train]
    names = [name for name in others if is_sample(name)] or [name for name in others if _of_submission(name)]
    # Where a table of sample pictures lies beside it, the other part of the name tells.
    names = [name for name in names if _of_submission(name)] or names
    if len(names) > 1:
        raise two_readings("sample submission", names, f"choose one with --sample '{names[0]}'")
    return (names[0], "its name") if names else (None, "no table has `sample` or `submission` in its name")


def is_sample(name: str) -> bool:
    return "sample" in Path(name).name.lower()


def _of_submission(name: str) -> bool:
    return "submi" in Path(name).name.lower()


def long_ids(ids: Sequence[str], classes: Sequence[str]) -> tuple[list[str], str] | None:
    """The pictures' ids in those of a long submission, and what stands before the class; None if it is no such."""
    names = set(classes)
    for separator in _LONG_SEPARATORS:
        if not all(key.endswith(tuple(separator + name for name in names)) for key in ids[:100]):
            continue
        try:
            return list(dict.fromkeys(split_long(key, names, separator)[0] for key in ids)), separator
        except DataError:
            continue
    return None


def read_form(
    sample: pd.DataFrame | None,
    *,
    classes: Sequence[str],
    target: Target,
    separator: str | None,
    long: str | None,
    wishes: Wishes,
) -> Submission:
    """What a submission holds, and the metric, which no file tells.

    Args:
        separator: What stands between the labels of one picture in the train table.
        long: What stands before the class in the sample's ids, where these are of pictures and classes.

    Raises:
        DataError: The sample cannot be of these classes, or the class of its probability is not known.
    """
    kind = metric_kind(wishes.metric or "")
    needs = METRIC_NEEDS[kind] if kind else None
    found = _form(sample, classes, target, separator, long, needs)
    if wishes.submission and wishes.submission != found.form:
        found = Submission(wishes.submission, "--submission", separator=found.separator)
    _require_together(found, target, needs, wishes.metric)
    if found.form == "probability":
        found = _with_positive(found, sample, classes, wishes)
    elif wishes.positive:
        raise DataError(
            f"--positive has no effect where a submission holds: {found.form} ({found.why})",
            expected="a submission of the probability of one class",
            next_step="go without it, or add --submission probability",
        )
    if found.form == "ranked":
        of_metric = wishes.metric.partition("@")[2] if wishes.metric and kind == "map@K" else ""
        found = replace(found, top=wishes.top or found.top or int(of_metric or 5))
    elif wishes.top:
        raise DataError(
            f"--top has no effect where a submission holds: {found.form} ({found.why})",
            expected="a submission of names ranked",
            next_step="go without it, or add --submission ranked",
        )
    if found.form not in ("names", "ranked", "long"):
        found = replace(found, separator=None)
    assumed = _ASSUMED.get((found.form, target), "accuracy").replace("@K", f"@{found.top}")
    return replace(found, metric=wishes.metric or assumed)


def _require_together(found: Submission, target: Target, needs: Needs | None, metric: str | None) -> None:
    metrics, targets = TAKES[found.form]
    holds = f"a submission that holds {found.form} ({found.why})"
    forms = [form for form, takes in TAKES.items() if target in takes[1] and (needs is None or needs in takes[0])]
    if target not in targets:
        problem = f"{holds} is not for a {target} target"
    elif needs and needs not in metrics:
        problem = f"{metric} looks at {needs}, which {holds} does not tell"
    else:
        return
    raise DataError(
        problem,
        expected="a target, a submission and a metric that go together",
        next_step=f"if a submission holds something else: --submission {forms[0]}; or another --metric or --target",
    )


def _form(
    sample: pd.DataFrame | None,
    classes: Sequence[str],
    target: Target,
    separator: str | None,
    long: str | None,
    needs: str | None,
) -> Submission:
    if long:
        return Submission("long", "its ids are of a picture and a class", separator=long)
    if sample is None or len(sample.columns) < 2:
        return _without_sample(target, separator, needs)
    if len(sample.columns) > 2:
        _require_classes(sample, classes)
        return Submission("probabilities", "the sample has one column a class")
    cells = sample.iloc[:, 1].str.strip()
    name = str(sample.columns[1])
    several = None if set(cells) <= set(classes) else _several(cells, classes, separator)
    if several and target == "multilabel":
        return Submission("names", f"the sample has several in a cell, as {several[1]!r}", separator=several[0])
    if several:
        top = len(names_of([several[1]], several[0]))
        return Submission("ranked", f"the sample names {top} an id, best first", top=top, separator=several[0])
    if target == "multilabel":
        return Submission("names", "one column, and a picture may have several labels", separator=separator or " ")
    numbers = pd.to_numeric(cells, errors="coerce")
    fractions = cells[cells.str.contains(".", regex=False) & ~cells.isin(list(classes))]
    if len(fractions) and numbers.notna().all():
        return Submission("probability", f"the sample's {name!r} holds {fractions.iloc[0]}")
    if needs == "ranking":
        return Submission("ranked", f"the metric ranks; the sample names one, as {cells.iloc[0]!r}", separator=" ")
    if needs == "probabilities":
        return Submission("probability", "the metric measures probabilities, and the sample has one column")
    doubts = []
    binary = set(classes) == {"0", "1"} and set(cells) <= {"0", "1"}
    if binary and needs is None:
        doubts.append("0 and 1 may be probabilities, too: --metric roc_auc (or log_loss …) says that they are")
    strange = sorted(set(cells) - set(classes) - {""})
    if strange:
        doubts.append(
            f"the sample holds {name_some(map(repr, strange), limit=3)}, which is no class here; classes are written "
            f"as in the train data: {name_some(classes, limit=3)}"
            + ("; if they are probabilities: --metric roc_auc" if numbers.notna().all() else "")
        )
    return Submission("class", "one label an id", doubts=tuple(doubts))


def _several(cells: pd.Series, classes: Sequence[str], separator: str | None) -> tuple[str, str] | None:
    """What stands between the classes that cells name, and the cell that names most; None where none names several."""
    for between in (separator, *SEPARATORS):
        named = {cell: names_of([cell], between) for cell in cells.unique()} if between else {}
        longest = max(named, key=lambda cell: len(named[cell]), default="")
        if between and len(named.get(longest, ())) > 1 and set().union(*named.values()) & set(classes):
            return between, longest
    return None


def _without_sample(target: Target, separator: str | None, needs: str | None) -> Submission:
    if target == "multilabel":
        form: Form = "names" if separator and needs in (None, "labels") else "probabilities"
        return Submission(form, "no sample tells; as the labels are written", separator=separator)
    if needs == "ranking":
        return Submission("ranked", "no sample tells; the metric ranks", separator=" ")
    if needs == "probabilities":
        return Submission("probabilities", "no sample tells; the metric measures probabilities")
    return Submission("class", "no sample tells; one label a picture")


def _with_positive(
    found: Submission, sample: pd.DataFrame | None, classes: Sequence[str], wishes: Wishes
) -> Submission:
    """The class that a column of probabilities is of: as the user says, as the column is named, 1, or the last."""
    if len(classes) != 2:
        raise DataError(
            f"a submission holds one probability an id ({found.why}), and there are {len(classes)} classes: "
            + name_some(classes),
            expected="two classes, or a column a class",
            next_step="if its numbers mean nothing: --submission class; if the labels are elsewhere: --label-column or "
            "--table; if it is of several classes together, write a table of pictures and 0 or 1: --table",
        )
    if wishes.positive:
        if wishes.positive not in classes:
            raise DataError(
                f"there is no class {wishes.positive!r}",
                expected=f"{classes[0]} or {classes[1]}",
                next_step=f"check --positive '{wishes.positive}'",
            )
        return replace(found, positive=wishes.positive, why=f"{found.why}; of the class {wishes.positive}: --positive")
    if set(classes) == {"0", "1"}:
        return replace(found, why=f"{found.why}; of the class 1")
    column = str(sample.columns[1]) if sample is not None and len(sample.columns) == 2 else ""
    if column in classes:
        return replace(found, positive=column, why=f"{found.why}; of the class {column}, as the column is named")
    last = classes[-1]
    doubt = f"that it is of {last!r}, the last by name, is assumed; if of {classes[0]!r}: --positive '{classes[0]}'"
    return replace(found, positive=last, doubts=(*found.doubts, doubt))


def _require_classes(sample: pd.DataFrame, classes: Sequence[str]) -> None:
    asked, given = set(sample.columns[1:]), set(classes)
    if asked == given:
        return
    differences = ((asked - given, "only the sample has"), (given - asked, "only the training pictures have"))
    raise DataError(
        "the training pictures have other classes than the sample submission: "
        + "; ".join(f"{has} {name_some(class_names(names))}" for names, has in differences if names),
        expected=f"the {len(asked)} classes that are the sample's columns: {name_some(sample.columns[1:])}",
        next_step="name the classes as the sample submission does, and give every class a picture; if the labels are "
        "elsewhere: --table, --label-column, --pictures or --label-pattern; if this is no sample submission: --sample",
    )
