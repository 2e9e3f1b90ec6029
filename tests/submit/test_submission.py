"""Submissions: the sample's rows and columns, and every fault found and named."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from pipeline.artifacts import Workspace
from pipeline.competition import Competition, TrainData
from pipeline.errors import DataError, SubmissionError
from pipeline.predictions.store import prediction_frame
from pipeline.submit.submission import (
    check_submission,
    make_submission,
    read_sample,
    require,
    write_checked,
    write_submission,
)

CLASSES = ["01", "1", "nan"]  # text that careless reading turns into numbers or into nothing
IDS = ["c.jpg", "a.jpg", "007", "b.jpg"]  # the sample's order: not sorted
VALUES = np.array(
    [[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5], [0.05, 0.9, 0.05]], dtype=np.float32
)  # of IDS, in their order
LABELS = ["01", "1", "nan", "1"]
NOW = datetime(2026, 2, 3, 4, 5, 6)

Form = Literal["class", "probabilities"]


def competition(folder: Path, form: Form, *, columns: Sequence[str] | None = None) -> Competition:
    (folder / "data").mkdir(parents=True)
    header = columns or (["id", "label"] if form == "class" else ["id", "nan", "01", "1"])
    lines = [",".join(header), *(",".join([key] + ["0"] * (len(header) - 1)) for key in IDS)]
    (folder / "data" / "sample.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return Competition(
        slug="cards",
        train=TrainData(pictures="train"),
        sample_submission="sample.csv",
        submission=form,
        folder=folder,
    )


@pytest.fixture
def of_classes(tmp_path: Path) -> Competition:
    return competition(tmp_path / "cards", "class")


@pytest.fixture
def of_probabilities(tmp_path: Path) -> Competition:
    return competition(tmp_path / "cards", "probabilities").model_copy(update={"metric": "log_loss"})


def predictions(order: Sequence[int] = (2, 0, 3, 1)) -> pd.DataFrame:
    frame = prediction_frame(IDS, VALUES, CLASSES)
    return frame.iloc[list(order)].reset_index(drop=True)


def faults(described: Competition, path: Path, text: str) -> tuple[str, ...]:
    path.write_text(text, "utf-8")
    return check_submission(described, path, classes=CLASSES).faults


CLASS_ROWS = [f"{key},{label}" for key, label in zip(IDS, LABELS, strict=True)]
GOOD_CLASSES = ["id,label", *CLASS_ROWS]
GOOD_PROBABILITIES = ["id,nan,01,1", "c.jpg,.1,.7,.2", "a.jpg,.3,.1,.6", "007,.5,.2,.3", "b.jpg,.05,.05,.9"]


def lines(content: Sequence[str]) -> str:
    return "\n".join(content) + "\n"


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 0, 3, 1)])
def test_classes_stand_in_the_samples_order(of_classes: Competition, order: tuple[int, ...]) -> None:
    made = make_submission(of_classes, predictions(order), CLASSES)
    assert list(made.columns) == ["id", "label"]
    assert list(made["id"]) == IDS
    assert list(made["label"]) == LABELS


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_probabilities_stand_in_the_samples_rows_and_columns(
    of_probabilities: Competition, order: tuple[int, ...]
) -> None:
    made = make_submission(of_probabilities, predictions(order), CLASSES)
    assert list(made.columns) == ["id", "nan", "01", "1"]
    assert list(made["id"]) == IDS
    np.testing.assert_allclose(made[CLASSES].to_numpy(dtype=float), VALUES, rtol=1e-6)
    np.testing.assert_allclose(made[CLASSES].to_numpy(dtype=float).sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("form", ["class", "probabilities"])
def test_what_is_written_holds_and_reads_back_the_same(tmp_path: Path, form: Form) -> None:
    described, workspace = competition(tmp_path / "cards", form), Workspace(tmp_path)
    path = write_submission(
        described, predictions(), CLASSES, experiment="demo", score=0.98765, workspace=workspace, now=NOW
    )
    assert path == tmp_path / "submissions" / "cards" / "20260203-040506-demo-0.9877.csv"
    check = check_submission(described, path, classes=CLASSES)
    assert check.faults == ()
    assert check.rows == len(IDS)
    read = pd.read_csv(path, dtype=str, keep_default_na=False)
    made = make_submission(described, predictions(), CLASSES)
    assert list(read["id"]) == IDS
    if form == "class":
        assert list(read["label"]) == LABELS
    else:
        # Nine digits: what two float32 numbers differ by is not lost.
        np.testing.assert_allclose(read[CLASSES].to_numpy(dtype=float), made[CLASSES].to_numpy(dtype=float), rtol=1e-8)


def test_surplus_predictions_are_left_out_and_a_missing_one_is_named(of_classes: Competition) -> None:
    more = prediction_frame([*IDS, "z.jpg"], np.vstack([VALUES, VALUES[:1]]), CLASSES)
    assert list(make_submission(of_classes, more, CLASSES)["id"]) == IDS
    fewer = predictions()
    fewer = fewer[fewer["id"] != "007"]
    with pytest.raises(SubmissionError, match=r"1 ids of the sample submission have no prediction: 007"):
        make_submission(of_classes, fewer, CLASSES)


def test_a_sample_with_a_strange_column_is_refused(tmp_path: Path) -> None:
    described = competition(tmp_path / "cards", "probabilities", columns=["id", "01", "1", "cat"])
    with pytest.raises(DataError, match=r"columns 01, 1, cat after the id[\s\S]*one column a class[\s\S]*submission"):
        make_submission(described, predictions(), CLASSES)


def test_a_competition_without_a_sample_says_what_is_missing(of_classes: Competition) -> None:
    with pytest.raises(SubmissionError, match="no sample submission"):
        read_sample(of_classes.model_copy(update={"sample_submission": None}))


def test_good_files_have_no_fault(tmp_path: Path) -> None:
    described = competition(tmp_path / "one", "class")
    assert faults(described, tmp_path / "x.csv", lines(GOOD_CLASSES)) == ()
    assert faults(described, tmp_path / "x.csv", "\ufeff" + "\r\n".join(GOOD_CLASSES) + "\r\n") == ()
    described = competition(tmp_path / "two", "probabilities")
    assert faults(described, tmp_path / "x.csv", lines(GOOD_PROBABILITIES)) == ()


def replaced(content: Sequence[str], number: int, *new: str) -> str:
    return lines([*content[:number], *new, *content[number + 1 :]])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (replaced(GOOD_CLASSES, 0, "Id,label"), r"columns are \['Id', 'label'\], expected \['id', 'label'\]"),
        (replaced(GOOD_CLASSES, 0, "label,id"), "in this order"),
        (lines(GOOD_CLASSES[1:]), "columns are"),
        (lines([f"{line},0" for line in GOOD_CLASSES]), "columns are"),
        (lines([f",{line}" for line in GOOD_CLASSES]), "columns are"),
        (replaced(GOOD_CLASSES, 2), "1 id is missing: a.jpg"),
        (lines([*GOOD_CLASSES, "d.jpg,1"]), "1 id is unknown: d.jpg"),
        (lines([*GOOD_CLASSES, GOOD_CLASSES[2]]), "1 id is repeated: a.jpg"),
        (replaced(GOOD_CLASSES, 3, "7,nan"), "1 id is missing: 007"),
        (replaced(GOOD_CLASSES, 1, "c.jpg,"), "1 row has no label: c.jpg"),
        (replaced(GOOD_CLASSES, 1, "c.jpg"), "1 row has no label: c.jpg"),
        (replaced(GOOD_CLASSES, 1, "c.jpg,  "), "1 row has no label: c.jpg"),
        (replaced(GOOD_CLASSES, 1, "c.jpg,NaN"), "1 row has no label: c.jpg"),
        (replaced(GOOD_CLASSES, 4, "b.jpg,1.0"), r"1 label is unknown: b.jpg \('1.0'\); known are 01, 1"),
        (replaced(GOOD_CLASSES, 4, "b.jpg,001"), r"1 label is unknown: b.jpg \('001'\)"),
        (GOOD_CLASSES[0] + "\n", "4 ids are missing: 007, a.jpg, b.jpg, c.jpg"),
    ],
)
def test_every_fault_of_a_file_of_classes_is_named(of_classes: Competition, text: str, fault: str) -> None:
    path = of_classes.folder / "x.csv"
    found = faults(of_classes, path, text)
    with pytest.raises(SubmissionError, match=fault):
        require(check_submission(of_classes, path, classes=CLASSES), path)
    assert len(found) <= 2


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("a.jpg,.3,,.6", "1 row has an empty, NaN or non-numeric probability: a.jpg"),
        ("a.jpg,.3,nan,.6", "1 row has an empty, NaN or non-numeric probability: a.jpg"),
        ("a.jpg,.3,inf,.6", "1 row has an empty, NaN or non-numeric probability: a.jpg"),
        ("a.jpg,.3,many,.6", "1 row has an empty, NaN or non-numeric probability: a.jpg"),
        ("a.jpg,.3,.7", "1 row has an empty, NaN or non-numeric probability: a.jpg"),
        ("a.jpg,-.1,.5,.6", "1 row has a probability outside 0..1: a.jpg"),
        ("a.jpg,0,1.5,0", "1 row has a probability outside 0..1: a.jpg"),
        ("a.jpg,.3,.1,.5", "1 row has probabilities that do not sum to 1: a.jpg"),
    ],
)
def test_every_fault_of_a_file_of_probabilities_is_named(of_probabilities: Competition, row: str, fault: str) -> None:
    found = faults(of_probabilities, of_probabilities.folder / "x.csv", replaced(GOOD_PROBABILITIES, 2, row))
    assert found == (fault,)


def test_another_order_of_the_rows_is_no_fault_and_is_named(of_classes: Competition) -> None:
    path = of_classes.folder / "x.csv"
    assert faults(of_classes, path, lines([GOOD_CLASSES[0], *CLASS_ROWS[::-1]])) == ()
    order = check_submission(of_classes, path, classes=CLASSES).order
    assert "from row 1 on: b.jpg instead of c.jpg" in order
    faults(of_classes, path, lines([*GOOD_CLASSES[:3], *CLASS_ROWS[:1:-1]]))
    assert "from row 3 on: b.jpg instead of 007" in check_submission(of_classes, path, classes=CLASSES).order
    faults(of_classes, path, lines(GOOD_CLASSES))
    assert check_submission(of_classes, path, classes=CLASSES).order == ""


def test_what_the_kit_writes_is_in_the_samples_order(
    of_classes: Competition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_submission(of_classes, predictions(), CLASSES)
    monkeypatch.setattr("pipeline.submit.submission.make_submission", lambda *_: made[::-1])
    with pytest.raises(SubmissionError, match="in another order"):
        write_checked(of_classes, predictions(), CLASSES, path=tmp_path / "x.csv")
    assert not (tmp_path / "x.csv").exists()


def test_rounded_probabilities_hold(of_probabilities: Competition) -> None:
    text = replaced(GOOD_PROBABILITIES, 2, "a.jpg,.3333,.3333,.3333")
    assert faults(of_probabilities, of_probabilities.folder / "x.csv", text) == ()


def test_several_faults_are_reported_together_and_long_lists_are_cut(tmp_path: Path) -> None:
    described = competition(tmp_path / "cards", "class")
    strangers = [f"new{number},cat" for number in range(7)]
    found = faults(described, tmp_path / "x.csv", lines(["id,label", *strangers]))
    assert len(found) == 3
    assert "4 ids are missing" in found[0]
    assert found[1] == "7 ids are unknown: new0, new1, new2, new3, new4 and 2 more"
    assert found[2].startswith("7 labels are unknown: new0 ('cat')")
    with pytest.raises(SubmissionError) as caught:
        require(check_submission(described, tmp_path / "x.csv", classes=CLASSES), tmp_path / "x.csv")
    assert all(fault in str(caught.value) for fault in found)


@pytest.mark.parametrize("content", [None, b"", b"id,label\n\xff\xfe\x00,1\n", b'id,label\n"c.jpg,1\n'])
def test_a_file_that_is_no_csv_is_an_error(of_classes: Competition, content: bytes | None) -> None:
    path = of_classes.folder / "x.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.csv"):
        require(check_submission(of_classes, path, classes=CLASSES), path)


def test_a_submission_that_does_not_hold_is_not_written(tmp_path: Path) -> None:
    described, workspace = competition(tmp_path / "cards", "probabilities"), Workspace(tmp_path)
    broken = predictions()
    broken.loc[broken["id"] == "a.jpg", "01"] = np.nan
    with pytest.raises(SubmissionError, match=r"non-numeric probability: a\.jpg"):
        write_submission(described, broken, CLASSES, experiment="demo", score=0.5, workspace=workspace, now=NOW)
    assert not list((tmp_path / "submissions").rglob("*.csv"))


def test_only_log_loss_needs_probabilities_that_sum_to_one(of_probabilities: Competition) -> None:
    ranked = of_probabilities.model_copy(update={"metric": "roc_auc"})
    text = replaced(GOOD_PROBABILITIES, 2, "a.jpg,.3,.1,.5")
    assert faults(ranked, ranked.folder / "x.csv", text) == ()
