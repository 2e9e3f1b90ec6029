"""How submissions are scored: hand-computed values, and what cannot be scored."""

import dataclasses
from pathlib import Path
from typing import Literal

import pandas as pd
import pytest

from pipeline.competition import Competition
from pipeline.data.forms import Form
from pipeline.errors import DataError
from pipeline.predictions.metrics import METRICS, metric_of
from pipeline.predictions.own_metric import metric_by
from pipeline.rehearsal.hosted import Hosted, Score, hosted_from
from tests.conftest import host_tiny, make_pictures, write_competition, write_table

LABELS = {f"p{number}": "cat" if number % 2 else "dog" for number in range(10)}


def hosted(**changes: object) -> Hosted:
    form = Form("class", "id", ("label",), ("cat", "dog", "owl"))
    settings = {
        "solution": LABELS,
        "form": form,
        "metric": METRICS["accuracy"],
        "data": Path(),
        "sample": Path(),
        **changes,
    }
    return Hosted(slug="pets", rows=tuple(settings["solution"]), **settings)


PROBABILITIES = Form("probabilities", "id", ("dog", "cat"), ("cat", "dog"), sums_to_one=True)


def scored(path: Path, rows: dict[str, str], competition: Hosted) -> Score:
    return competition.score(
        write_table(path / "s.csv", "id,label", *(f"{key},{value}" for key, value in rows.items()))
    )


def test_public_and_private_scores_are_of_their_own_pictures(tmp_path: Path) -> None:
    competition = hosted()
    public = competition.public_ids()
    assert len(public) == 3 and public < set(LABELS)
    assert scored(tmp_path, LABELS, competition) == Score(1.0, 1.0)
    wrong = min(set(LABELS) - public)
    assert scored(tmp_path, {**LABELS, wrong: "owl"}, competition) == Score(1.0, pytest.approx(6 / 7))
    wrong = min(public)
    assert scored(tmp_path, {**LABELS, wrong: "owl"}, competition) == Score(pytest.approx(2 / 3), 1.0)


def test_public_pictures_follow_from_their_ids() -> None:
    turned = dict(reversed(LABELS.items()))
    assert dataclasses.replace(hosted(), solution=turned).public_ids() == hosted().public_ids()


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.5, 5), (1.0, 9)])
def test_neither_part_is_empty(share: float, count: int) -> None:
    assert len(hosted(public_share=share).public_ids()) == count


def test_one_picture_is_both_parts(tmp_path: Path) -> None:
    alone = hosted(solution={"p": "cat"})
    assert scored(tmp_path, {"p": "cat"}, alone) == Score(1.0, 1.0)


def test_order_of_rows_means_nothing(tmp_path: Path) -> None:
    rows = {**LABELS, "p3": "owl", "p4": "owl"}
    assert scored(tmp_path, rows, hosted()) == scored(tmp_path, dict(reversed(rows.items())), hosted())


def test_log_loss_of_probabilities(tmp_path: Path) -> None:
    competition = hosted(
        public_share=0.5, solution={"a": "cat", "b": "dog"}, form=PROBABILITIES, metric=METRICS["log_loss"]
    )
    path = write_table(tmp_path / "s.csv", "id,dog,cat", "a,0.2,0.6", "b,0.5,0.5")
    # 3 : 1 for the right class, and 1 : 1; rows are scaled to sum to one.
    score = competition.score(path)
    assert sorted([score.public, score.private]) == pytest.approx([0.28768, 0.69315], abs=1e-5)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("id,label\np0,dog\n", r"9 ids are missing: p1, p2, p3, p4, p5"),
        ("id,class\n", r"columns are \['id', 'class'\], expected \['id', 'label'\]"),
        ("", "cannot be read"),
        ("id,label\n" + "".join(f"{key},dog\n" for key in [*LABELS, "p0"]), "1 id is repeated: p0"),
        ("id,label\n" + "".join(f"{key},dog\n" for key in [*LABELS, "q"]), "1 id is unknown: q"),
        ("id,label\n" + "".join(f"{key},emu\n" for key in LABELS), r"10 labels are unknown: p0 \('emu'\)"),
    ],
)
def test_what_cannot_be_scored_says_why(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "s.csv").write_text(content)
    with pytest.raises(ValueError, match=complaint):
        hosted().score(tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("p0,x,1", "1 row has an empty, NaN or non-numeric probability: p0"),
        ("p0,,1", "1 row has an empty, NaN or non-numeric probability: p0"),
        ("p0,-1,2", "1 row has a probability outside 0..1: p0"),
        ("p0,0,0", "1 row holds no probabilities: p0"),
    ],
)
def test_rows_without_probabilities_are_refused(tmp_path: Path, row: str, complaint: str) -> None:
    competition = hosted(solution={"p0": "cat"}, form=PROBABILITIES)
    with pytest.raises(ValueError, match=complaint):
        competition.score(write_table(tmp_path / "s.csv", "id,cat,dog", row))


def test_fewer_names_than_count_are_no_places_for_the_others(tmp_path: Path) -> None:
    form = Form("ranked", "id", ("names",), tuple("abcdefgh"), top=5)
    metric = metric_of({"metric": "map@5", "classes": list("abcdefgh")})
    competition = hosted(solution={"p": "a", "q": "a"}, form=form, metric=metric)
    path = write_table(tmp_path / "s.csv", "id,names", "p,h", "q,h a")
    score = competition.score(path)
    assert sorted([score.public, score.private]) == [0, 0.5]


@pytest.mark.parametrize("kind", ["probabilities", "long"])
def test_a_metric_in_a_file_is_given_what_was_submitted(tmp_path: Path, kind: Literal["probabilities", "long"]) -> None:
    form = Form(kind, "id", ("dog", "cat") if kind == "probabilities" else ("p",), ("cat", "dog"), separator="_")
    seen: dict[str, list[float]] = {}

    def score(solution: pd.DataFrame, submission: pd.DataFrame, key: str) -> float:
        columns = list(form.columns)
        assert list(solution[key]) == list(submission[key])
        seen.update(zip(submission[key], submission[columns].to_numpy().tolist(), strict=True))
        return float(solution[columns].to_numpy().sum())

    rows = [f"{key}_{name}" for key in LABELS for name in form.classes] if kind == "long" else list(LABELS)
    competition = dataclasses.replace(
        hosted(form=form, metric=metric_by(score, form, name="metric.py", greater_is_better=True)), rows=tuple(rows)
    )
    cells = "0" if kind == "long" else "0,0"  # which no sum can divide
    submitted = write_table(
        tmp_path / "s.csv", ",".join([form.key, *form.columns]), *(f"{row},{cells}" for row in rows)
    )
    submitted.write_text(submitted.read_text().replace(f"{rows[0]},0", f"{rows[0]},0.9"))
    assert competition.score(submitted) == Score(3.0, 7.0)  # of each picture one class
    assert set(seen) == set(rows)
    assert seen[rows[0]] == ([0.9] if kind == "long" else [0.9, 0.0])
    assert seen[rows[1]] == ([0.0] if kind == "long" else [0.0, 0.0])


def test_what_a_metric_in_a_file_refuses_is_said(tmp_path: Path) -> None:
    def score(*_: object) -> float:
        raise DataError("metric.py: score raised ValueError: no", expected="a score", next_step="correct it")

    form = hosted().form
    competition = hosted(metric=metric_by(score, form, name="metric.py", greater_is_better=True))
    with pytest.raises(ValueError, match="score raised ValueError: no"):
        scored(tmp_path, LABELS, competition)


@pytest.mark.parametrize("lacking", ["t1.jpg_green", "_green"])
def test_a_long_sample_that_lacks_a_class_is_refused(
    tmp_path: Path, tiny_competition: Competition, lacking: str
) -> None:
    changes = {"submission": "long", "separator": "_", "metric": "log_loss"}
    rows = [f"t{number}.jpg_{label},0" for number in range(6) for label in ("red", "blue", "green")]
    write_table(tiny_competition.data / "sample_submission.csv", "id,p", *(row for row in rows if lacking not in row))
    solution = write_table(tmp_path / "solution.csv", "id,label", *(f"t{number}.jpg,blue" for number in range(6)))
    with pytest.raises(DataError, match=r"sample_submission.csv lacks rows of a picture and a class: t[01]\.jpg_green"):
        hosted_from(tiny_competition.model_copy(update=changes), solution=solution)


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("id,labels", ["p0,a b", "p1,b"]),
        ("id,labels,Usage", ["p0,a b,Public", "p1,b,Private"]),
        ("id,a,b", ["p0,1,1", "p1,0,1"]),
        ("id,a,b", ["p0,1.0,True", "p1,0.0,1"]),
    ],
)
def test_a_solution_of_several_labels(tmp_path: Path, header: str, rows: list[str]) -> None:
    train = {"pictures": "train", "table": "t.csv", "id_column": "id", "label_columns": ["a", "b"]}
    settings = {"train": train, "target": "multilabel", "submission": "names", "metric": "micro_f1"}
    competition = write_competition(tmp_path, "several", **settings, sample_submission="s.csv")
    make_pictures(competition.data / "train", {".": 2})
    write_table(competition.data / "t.csv", "id,a,b", "000.jpg,1,0", "001.jpg,0,1")
    write_table(competition.data / "s.csv", "id,labels", "p0,a", "p1,a")
    made = hosted_from(competition, solution=write_table(tmp_path / "solution.csv", header, *rows))
    assert made.solution == {"p0": "a|b", "p1": "b"}


def test_a_solution_of_other_values_is_refused(tmp_path: Path) -> None:
    train = {"pictures": "train", "table": "t.csv", "id_column": "id", "label_columns": ["a", "b"]}
    settings = {"train": train, "target": "multilabel", "submission": "names", "metric": "micro_f1"}
    competition = write_competition(tmp_path, "several", **settings, sample_submission="s.csv")
    write_table(competition.data / "s.csv", "id,labels", "p0,a")
    with pytest.raises(DataError, match=r"'b' of solution\.csv holds 'yes'"):
        hosted_from(competition, solution=write_table(tmp_path / "solution.csv", "id,a,b", "p0,1,yes"))


def test_a_competition_of_the_kit_is_hosted(tmp_path: Path) -> None:
    competition = host_tiny(tmp_path, daily_limit=2)
    assert competition.form == Form("class", "id", ("label",), ("blue", "green", "red"))
    assert competition.daily_limit == 2
    assert competition.solution["t4.jpg"] == "green"
    assert competition.sample.is_file()


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (["t0.jpg,blue"], r"lacks 5 ids of sample_submission.csv \(t1.jpg"),
        ([f"t{number}.jpg,blue" for number in range(7)], r"and has 1 others \(t6.jpg\)"),
        (["t0.jpg,blue", "t0.jpg,red"], "repeats an id"),
        (["t0.jpg,"], "no label for it: t0.jpg"),
        ([], "has 0 rows"),
    ],
)
def test_a_solution_that_does_not_fit_is_refused(
    tmp_path: Path, tiny_competition: Competition, rows: list[str], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        hosted_from(tiny_competition, solution=write_table(tmp_path / "solution.csv", "id,label", *rows))


def test_probabilities_need_a_column_a_class(tmp_path: Path, tiny_competition: Competition) -> None:
    settings = {**tiny_competition.model_dump(mode="json", exclude={"slug"}), "submission": "probabilities"}
    competition = write_competition(tmp_path, "tiny", **settings)
    solution = write_table(tmp_path / "s.csv", "id,label", *(f"t{number}.jpg,blue" for number in range(6)))
    with pytest.raises(DataError, match="has the columns label after the id"):
        hosted_from(competition, solution=solution)


def test_there_must_be_a_solution_and_a_sample(tmp_path: Path, tiny_competition: Competition) -> None:
    with pytest.raises(DataError, match=r"solution\.csv does not exist"):
        hosted_from(tiny_competition, solution=tmp_path / "solution.csv")
    without = tiny_competition.model_copy(update={"sample_submission": None})
    with pytest.raises(DataError, match="no sample submission"):
        hosted_from(without, solution=tmp_path / "solution.csv")
