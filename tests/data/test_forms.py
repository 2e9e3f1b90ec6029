"""What a submission of each form looks like: hand-computed, read back, and held against what must not be in it."""

import numpy as np
import pandas as pd
import pytest

from pipeline.competition import Competition
from pipeline.data.forms import Form, form_of
from pipeline.errors import DataError
from pipeline.targets import likeliest

CLASSES = ("ace of clubs", "joker", "two")
PREDICTIONS = pd.DataFrame(
    {"id": ["b", "a"], "ace of clubs": [0.2, 0.6], "joker": [0.7, 0.1], "two": [0.1, 0.3]},
)
KEYS = ["a", "b"]


def form(kind: str, **changes: object) -> Form:
    columns = {"probabilities": ("two", "ace of clubs", "joker")}.get(kind, ("said",))
    return Form(**{"kind": kind, "key": "id", "columns": columns, "classes": CLASSES, **changes})


def cells(frame: pd.DataFrame) -> list[list[object]]:
    return frame.to_numpy().tolist()


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.map(lambda value: value if isinstance(value, str) else f"{value:.9g}")


def test_the_class() -> None:
    assert cells(form("class").fill(KEYS, PREDICTIONS)) == [["a", "ace of clubs"], ["b", "joker"]]


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({"submission": "class"}, ["said", "id"]),
        ({"submission": "ranked", "metric": "map@5"}, ["said", "id"]),
        ({"submission": "probabilities", "metric": "log_loss"}, ["two", "ace of clubs", "id", "joker"]),
    ],
)
def test_the_ids_may_stand_after_other_columns(settings: dict[str, object], columns: list[str]) -> None:
    made = form_of(described(**settings, sample_id_column="id", separator="|"), columns, CLASSES)
    filled, truth = made.fill(KEYS, PREDICTIONS), made.solution(KEYS, np.array([0, 1]))
    assert list(filled) == list(truth) == columns
    assert list(filled["id"]) == list(truth["id"]) == list(made.read(as_text(filled)).index) == KEYS
    assert made.faults(as_text(filled)) == []


def test_labels_may_be_chosen_otherwise() -> None:
    always_last = lambda found: np.full(len(found), 2)  # noqa: E731
    assert cells(form("class").fill(KEYS, PREDICTIONS, always_last)) == [["a", "two"], ["b", "two"]]


def test_the_probability_of_the_positive_class() -> None:
    pair = Form("probability", "id", ("label",), ("cat", "dog"), positive="dog")
    found = pd.DataFrame({"id": ["1", "2"], "cat": [0.25, 0.9], "dog": [0.75, 0.1]})
    assert cells(pair.fill(["2", "1"], found)) == [["2", 0.1], ["1", 0.75]]
    read = pair.read(pd.DataFrame({"id": ["2", "1"], "label": ["0.1", "0.75"]}))
    assert read.loc["1"].to_dict() == {"cat": 0.25, "dog": 0.75}
    assert form_first(pair).fill(["1"], found)["label"].tolist() == [0.25]


def form_first(pair: Form) -> Form:
    return Form(pair.kind, pair.key, pair.columns, pair.classes, positive="cat")


def test_probabilities_stand_in_the_samples_order_and_sum_to_one() -> None:
    doubled = PREDICTIONS.assign(**{name: PREDICTIONS[name] * 2 for name in CLASSES})
    found = form("probabilities").fill(KEYS, doubled)
    assert list(found) == ["id", "two", "ace of clubs", "joker"]
    np.testing.assert_allclose(found.iloc[0, 1:].astype(float), [0.3, 0.6, 0.1])


def test_several_probabilities_are_left_as_they_are_and_cut_where_labels_are_asked_for() -> None:
    several = PREDICTIONS.assign(two=[0.9, 0.9])
    np.testing.assert_allclose(
        form("probabilities", target="multilabel").fill(KEYS, several).iloc[0, 1:].astype(float), [0.9, 0.6, 0.1]
    )
    cut = form("probabilities", target="multilabel", cut=True).fill(KEYS, several)
    assert cells(cut) == [["a", 1, 1, 0], ["b", 1, 0, 1]]


def test_names_of_all_classes_found_and_of_the_likeliest_where_none_is() -> None:
    several = PREDICTIONS.assign(two=[0.5, 0.4], joker=[0.7, 0.1])
    names = form("names", target="multilabel", separator=", ")
    assert cells(names.fill(KEYS, several)) == [["a", "ace of clubs"], ["b", "joker, two"]]
    nothing = several.assign(**{"ace of clubs": 0.1, "joker": 0.3, "two": 0.2})
    assert cells(names.fill(["a"], nothing)) == [["a", "joker"]]


def test_the_best_names_in_their_order_even_with_blanks_in_them() -> None:
    ranked = form("ranked", top=2)
    filled = ranked.fill(KEYS, PREDICTIONS)
    assert cells(filled) == [["a", "ace of clubs two"], ["b", "joker ace of clubs"]]
    assert ranked.read(filled).to_numpy().tolist() == [[1, 0, 0.5], [0.5, 1, 0]]


def test_a_row_a_picture_and_class() -> None:
    classes = ("cat", "big_cat")
    long = Form("long", "id", ("p",), classes, separator="_")
    found = pd.DataFrame({"id": ["x_1.jpg"], "cat": [0.25], "big_cat": [0.75]})
    keys = ["x_1.jpg_big_cat", "x_1.jpg_cat"]
    assert long.pictures(keys) == ["x_1.jpg", "x_1.jpg"]
    filled = long.fill(keys, found)
    assert cells(filled) == [["x_1.jpg_big_cat", 0.75], ["x_1.jpg_cat", 0.25]]
    assert long.read(filled).loc["x_1.jpg"].tolist() == [0.25, 0.75]
    with pytest.raises(DataError, match=r"the id 'x_1\.jpg' of the sample submission does not end"):
        long.pictures(["x_1.jpg"])


@pytest.mark.parametrize("kind", ["class", "probabilities", "names", "ranked"])
def test_what_is_written_has_no_fault_and_says_the_same(kind: str) -> None:
    target = "multilabel" if kind == "names" else "single"
    one = form(kind, target=target, top=3, sums_to_one=kind == "probabilities")
    text = as_text(one.fill(KEYS, PREDICTIONS))
    assert one.faults(text) == []
    read = one.read(text)[list(CLASSES)].to_numpy()
    assert likeliest(read).tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["class", "probabilities", "names", "ranked", "long"])
def test_the_truth_as_a_table(kind: str) -> None:
    several = kind == "names"
    one = form(kind, target="multilabel" if several else "single", separator="_" if kind == "long" else " ")
    labels = np.array([[1, 0, 1], [0, 1, 0]]) if several else np.array([2, 1])
    keys = ["a_two", "b_two"] if kind == "long" else KEYS
    expected = {
        "class": [["a", "two"], ["b", "joker"]],
        "probabilities": [["a", 1, 0, 0], ["b", 0, 0, 1]],
        "names": [["a", "ace of clubs two"], ["b", "joker"]],
        "ranked": [["a", "two"], ["b", "joker"]],
        "long": [["a_two", 1], ["b_two", 0]],
    }
    assert cells(one.solution(keys, labels)) == expected[kind]


@pytest.mark.parametrize(
    ("kind", "cell", "fault"),
    [
        ("class", "ace", "1 label is unknown: a ('ace')"),
        ("class", " ", "1 row has no label: a"),
        ("names", "joker joker", "1 row has a name twice: a"),
        ("names", "joker three", "1 label is unknown: a ('three')"),
        ("ranked", "joker two ace of clubs", "1 row has more than 2 names: a"),
        ("ranked", "", "1 row has no label: a"),
    ],
)
def test_names_that_do_not_hold_are_named(kind: str, cell: str, fault: str) -> None:
    one = form(kind, target="multilabel" if kind == "names" else "single", top=2)
    found = one.faults(pd.DataFrame({"id": ["a", "b"], "said": [cell, "joker"]}))
    assert len(found) == 1 and found[0].startswith(fault)


@pytest.mark.parametrize(
    ("values", "changes", "fault"),
    [
        (("0.5", "x", "0.5"), {}, "an empty, NaN or non-numeric probability"),
        (("0.5", "1.5", "0"), {}, "a probability outside 0..1"),
        (("0.5", "0.5", "0.5"), {"sums_to_one": True}, "probabilities that do not sum to 1"),
        (("0", "1", "0.5"), {"target": "multilabel", "cut": True}, "a probability where 0 or 1 is asked for"),
    ],
)
def test_numbers_that_do_not_hold_are_named(values: tuple[str, ...], changes: dict[str, object], fault: str) -> None:
    one = form("probabilities", **changes)
    given = pd.DataFrame([["a", *values], ["b", "0", "1", "0"]], columns=["id", *one.columns])
    assert one.faults(given) == [f"1 row has {fault}: a"]


def described(**changes: object) -> Competition:
    train = {"pictures": "train", "table": "t.csv", "id_column": "id", "label_column": "label"}
    return Competition.model_validate({"slug": "x", "train": train, "sample_submission": "s.csv", **changes})


def test_the_form_is_what_competition_yaml_says() -> None:
    settings = {"submission": "probability", "metric": "roc_auc"}
    assert form_of(described(**settings), ["id", "label"], ["0", "1"]).positive == "1"
    assert form_of(described(**settings, positive="cat"), ["id", "label"], ["cat", "dog"]).positive == "cat"
    wide = described(submission="probabilities", metric="log_loss")
    assert form_of(wide, ["id", "b", "a"], ["a", "b"]).sums_to_one
    assert not form_of(wide.model_copy(update={"metric": "roc_auc"}), ["id", "b", "a"], ["a", "b"]).sums_to_one


@pytest.mark.parametrize(
    ("settings", "columns", "classes", "problem"),
    [
        ({"submission": "probability", "metric": "roc_auc"}, ["id", "x"], ["cat", "dog"], "without `positive`"),
        ({"submission": "probability", "metric": "brier"}, ["id", "x"], ["a", "b", "c"], "with 3 classes"),
        ({"submission": "probability", "metric": "brier", "positive": "z"}, ["id", "x"], ["a", "b"], "`positive: z`"),
        ({"submission": "probabilities"}, ["id", "a", "b"], ["a", "c"], "has the columns a, b after the id"),
        ({"sample_id_column": "x"}, ["id"], ["a", "b"], "has the columns id after the id"),
        (
            {"submission": "ranked", "metric": "map@5"},
            ["id", "a", "b"],
            ["a", "b"],
            "has the columns a, b after the id",
        ),
    ],
)
def test_a_sample_of_another_form_is_refused(
    settings: dict[str, object], columns: list[str], classes: list[str], problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        form_of(described(**settings), columns, classes)
