"""A comparison as rows that a program reads, and as text that a person reads."""

import json
from dataclasses import replace
from typing import Any

import pytest

from pipeline.predictions.compare import Comparison, Difference, Standing
from pipeline.predictions.metrics import METRICS
from pipeline.report.comparison import comparison_rows, comparison_text
from pipeline.report.tables import format_rows


def standing(name: str, score: float, **changes: Any) -> Standing:
    return replace(Standing(name, score, 0.0161, {0: 0.71, 1: 0.7449}, score, 0.9011, 0.7022, 0.0512), **changes)


def difference(gain: float, **changes: Any) -> Difference:
    seen = Difference(gain, 0.01, gain - 0.02, gain + 0.02, 30, 41, 0.2345, 0.4691, 12_345)
    return replace(seen, **changes)


FAR = difference(-0.15, low=-0.18, high=-0.12, mcnemar_p=3e-9, p=9e-9, rows_needed=61)
BEST_FIRST = Comparison(
    metric=METRICS["accuracy"],
    rows=1800,
    standings=[standing("big", 0.7262), standing("seed-1", 0.7201), standing("head", 0.5725)],
    reference="big",
    differences={"head": FAR, "seed-1": difference(-0.0061)},
    pairs=3,
    resamples=2000,
)
MANIFESTS: dict[str, Any] = {
    name: {
        "competition": "cars",
        "tta_used": name == "big",
        "select_on": "fold",
        "stages": [{}, {}],
        "seconds": 156.7,
    }
    for name in ("big", "seed-1", "head")
}


def against_head(**changes: Any) -> Comparison:
    swapped = {"big": difference(0.15, low=0.12, high=0.18, p=0.0001), "seed-1": difference(0.1476, low=0.1, p=0.01)}
    return replace(BEST_FIRST, reference="head", differences=swapped, pairs=2, **changes)


def table(text: str, first: str) -> dict[str, str]:
    """The lines of the table whose header begins with `experiment  <first>`, by their first word."""
    lines = text.splitlines()
    header = next(n for n, line in enumerate(lines) if line.split()[:2] == ["experiment", first])
    found = {"header": lines[header]}
    for line in lines[header + 2 :]:
        if not line:
            break
        found[line.split()[0]] = line
    return found


def test_rows_have_everything_once_for_each_experiment() -> None:
    rows = comparison_rows(BEST_FIRST, MANIFESTS)
    assert [row["experiment"] for row in rows] == ["big", "seed-1", "head"]
    assert len({tuple(row) for row in rows}) == 1
    best, second, last = rows
    assert {
        key: best[key] for key in ("competition", "metric", "rows", "score", "score_se", "seconds", "tta_used")
    } == {
        "competition": "cars",
        "metric": "accuracy",
        "rows": 1800,
        "score": 0.7262,
        "score_se": 0.0161,
        "seconds": 157,
        "tta_used": True,
    }
    assert (best["fold_0"], best["fold_1"]) == (0.71, 0.7449)
    assert (best["log_loss"], best["macro_f1"], best["calibration_error"]) == (0.9011, 0.7022, 0.0512)
    assert {row["reference"] for row in rows} == {"big"}
    assert best["gain"] is best["p"] is best["verdict"] is best["rows_needed"] is None
    assert (second["gain"], second["low"], second["high"]) == pytest.approx((-0.0061, -0.0261, 0.0139))
    assert (second["right_alone"], second["reference_right_alone"]) == (30, 41)
    assert (second["mcnemar_p"], second["p"], second["rows_needed"]) == (0.2345, 0.4691, 12_345)
    assert (second["verdict"], last["verdict"]) == ("not distinguishable", "worse")


def test_rows_go_through_json_and_csv() -> None:
    rows = comparison_rows(BEST_FIRST, MANIFESTS)
    assert json.loads(format_rows(rows, "json")) == rows
    assert len(format_rows(rows, "csv").splitlines()) == 4


def test_the_scores_stand_best_first() -> None:
    text = comparison_text(BEST_FIRST, MANIFESTS)
    assert text.splitlines()[0] == "cars: 3 experiments on the same 1,800 rows, best first"
    found = table(text, "accuracy")
    assert list(found) == ["header", "big", "seed-1", "head"]
    columns = "experiment accuracy ± se log_loss macro_f1 ECE TTA select_on seconds by fold"
    assert " ".join(found["header"].split()) == columns
    assert found["big"].split() == [
        "big",
        "0.7262",
        "0.0161",
        "0.9011",
        "0.7022",
        "0.0512",
        "yes",
        "fold",
        "157",
        "0.710",
        "0.745",
    ]
    assert "  no  " in found["head"]


def test_what_was_not_trained_took_no_seconds() -> None:
    blend = {**MANIFESTS, "big": {**MANIFESTS["big"], "stages": []}}
    assert [row["seconds"] for row in comparison_rows(BEST_FIRST, blend)] == [None, 157, 157]
    assert "yes  fold                0.710 0.745" in table(comparison_text(BEST_FIRST, blend), "accuracy")["big"]


def test_who_is_flattered_is_said() -> None:
    assert "note:" not in comparison_text(BEST_FIRST, MANIFESTS)
    mixed = {**MANIFESTS, "head": {**MANIFESTS["head"], "select_on": "inner"}}
    note = "note: epochs were chosen on the scored rows by big, seed-1 and not by head: the former are"
    assert note in comparison_text(BEST_FIRST, mixed)
    last = {name: {**manifest, "select_on": "last"} for name, manifest in MANIFESTS.items()}
    assert "note:" not in comparison_text(BEST_FIRST, last)
    text = comparison_text(BEST_FIRST, {**last, "big": {**last["big"], "stages_chosen_on": "fold"}})
    assert "note: stages were chosen on the scored rows by big and not by seed-1, head: the former are" in text
    assert "  last, stages: fold  " in table(text, "accuracy")["big"]
    inner = {**last, "big": {**last["big"], "select_on": "inner", "stages_chosen_on": "inner"}}
    assert "note:" not in comparison_text(BEST_FIRST, inner)


def test_extra_rows_have_a_column_where_there_are_any() -> None:
    extra = {**MANIFESTS, "big": {**MANIFESTS["big"], "extra_rows": {"more": {"0": 4}, "pseudo": {"0": 5}}}}
    found = table(comparison_text(BEST_FIRST, extra), "accuracy")
    assert "select_on  extra rows    seconds" in found["header"]
    assert "fold       more, pseudo      157" in found["big"]
    assert "fold                         157" in found["head"]
    assert comparison_rows(BEST_FIRST, extra)[0]["extra_rows"] == "more, pseudo"


def test_another_metric_has_accuracy_beside_it() -> None:
    other = replace(BEST_FIRST, metric=METRICS["macro_f1"])
    header = table(comparison_text(other, MANIFESTS), "macro_f1")["header"].split()
    assert header[:6] == ["experiment", "macro_f1", "±", "se", "accuracy", "log_loss"]
    assert header.count("macro_f1") == 1


def test_the_verdict_is_in_words() -> None:
    text = comparison_text(BEST_FIRST, MANIFESTS)
    assert "Against big, the best (plus: better than it)" in text
    found = table(text, "difference")
    assert list(found) == ["header", "seed-1", "head"]
    columns = "experiment difference 95 % interval only it only best McNemar p p verdict rows needed"
    assert " ".join(found["header"].split()) == columns
    assert " ".join(found["seed-1"].split()) == (
        "seed-1 -0.0061 -0.0261 to +0.0139 30 41 0.2345 0.4691 not distinguishable with 1,800 rows about 12,000"
    )
    assert " ".join(found["head"].split()) == "head -0.1500 -0.1800 to -0.1200 30 41 <0.0001 <0.0001 worse"


def test_better_than_a_baseline() -> None:
    text = comparison_text(against_head(), MANIFESTS)
    assert "Against head, the baseline (plus: better than it)" in text
    found = table(text, "difference")
    assert "only baseline" in found["header"]
    assert list(found) == ["header", "big", "seed-1"]
    assert found["big"].rstrip().endswith("0.0001  better")
    assert "only it, only baseline" in text


def test_equal_scores_are_called_equal_and_have_no_minus_sign() -> None:
    same = difference(0.0, low=-1e-17, high=-0.0, p=1.0, mcnemar_p=1.0, rows_needed=None)
    pair = replace(BEST_FIRST, standings=BEST_FIRST.standings[:2], differences={"seed-1": same}, pairs=1)
    line = table(comparison_text(pair, MANIFESTS), "difference")["seed-1"]
    assert "+0.0000 to +0.0000" in line
    assert "-0.0" not in line
    assert line.endswith("scores are equal")


@pytest.mark.parametrize(
    ("needed", "words"), [(7, "about 7"), (99, "about 99"), (1849, "about 1,800"), (1_250_001, "about 1,300,000")]
)
def test_rows_needed_are_said_to_two_digits(needed: int, words: str) -> None:
    some = replace(BEST_FIRST, differences={**BEST_FIRST.differences, "seed-1": difference(-0.01, rows_needed=needed)})
    assert table(comparison_text(some, MANIFESTS), "difference")["seed-1"].endswith(f"  {words}")


def test_the_legend_says_what_was_done() -> None:
    three = comparison_text(BEST_FIRST, MANIFESTS)
    for words in (
        "15 equally wide bins of the largest probability",
        "paired bootstrap of the rows, 2,000 resamples",
        "McNemar's, corrected by Holm's method for 3 pairs",
        "the interval leaves out zero and p is below 0.05",
        "another seed",
    ):
        assert words in three
    assert "DeLong" not in three
    assert "2,000 resamples, to first order (DeLong" in comparison_text(
        replace(BEST_FIRST, metric=METRICS["roc_auc"]), MANIFESTS
    )
    other = comparison_text(replace(BEST_FIRST, metric=METRICS["log_loss"]), MANIFESTS)
    assert "of the difference over its standard error, corrected by Holm's method for 3 pairs" in other


def test_two_experiments_need_no_corrected_p() -> None:
    pair = replace(BEST_FIRST, standings=BEST_FIRST.standings[::2], differences={"head": FAR}, pairs=1)
    text = comparison_text(pair, MANIFESTS)
    assert "Holm" not in text
    assert "and McNemar p is below 0.05" in text
    assert table(text, "difference")["header"].split().count("p") == 1
    other = comparison_text(replace(pair, metric=METRICS["log_loss"]), MANIFESTS)
    assert table(other, "difference")["header"].split().count("p") == 2
    assert other.count("of the difference over its standard error\n") == 1
    assert "and p is below 0.05" in other
