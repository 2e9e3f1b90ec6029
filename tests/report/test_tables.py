"""Submissions as rows, and how well OOF agrees with the leaderboard, against values computed by hand."""

from math import sqrt
from typing import Any

import pytest

from pipeline.report.tables import agreement_rows, format_rows, kept_epochs, scored, submission_rows


def entry(number: int, oof: float | None, public: float | None, private: float | None = None, **more: Any) -> Any:
    return {
        "competition": "cards",
        "time": f"2026-02-03T04:05:{number:02}+00:00",
        "server": "kaggle.com",
        "file": f"submissions/cards/{number}.csv",
        "sha256": str(number),
        "experiment": f"e{number}",
        "oof_score": oof,
        "oof_score_se": 0.01,
        "public_score": public,
        "private_score": private,
        "ref": number,
        "status": "COMPLETE",
        "message": "",
        "tag": "",
        **more,
    }


def agreement(pairs: list[tuple[float, float]]) -> tuple[float | None, float | None, int]:
    [row] = agreement_rows([entry(number, *pair) for number, pair in enumerate(pairs)])
    return row["Spearman"], row["Kendall"], row["n"]


@pytest.mark.parametrize(
    ("pairs", "spearman", "kendall"),
    [
        ([(0.1, 0.7), (0.2, 0.8), (0.3, 0.9)], 1.0, 1.0),
        ([(0.1, 0.9), (0.2, 0.8), (0.3, 0.7)], -1.0, -1.0),
        # One of six pairs is turned round: 1 - 6·2 / (4·15), (5 - 1) / 6.
        ([(0.1, 0.1), (0.2, 0.3), (0.3, 0.2), (0.4, 0.4)], 0.8, 4 / 6),
        # Two OOF scores are equal: ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4.
        ([(0.1, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4)], 4.5 / sqrt(4.5 * 5), 5 / sqrt(5 * 6)),
    ],
)
def test_agreement_is_that_of_the_ranks(pairs: list[tuple[float, float]], spearman: float, kendall: float) -> None:
    found = agreement(pairs)
    assert found[:2] == (pytest.approx(spearman), pytest.approx(kendall))
    assert found[2] == len(pairs)


@pytest.mark.parametrize(
    "pairs",
    [
        [(0.1, 0.2)],
        [(0.1, 0.2), (0.2, 0.3)],
        [(0.1, 0.5), (0.1, 0.6), (0.1, 0.7)],
        [(0.1, 0.5), (0.2, 0.5), (0.3, 0.5)],
    ],
)
def test_too_little_to_say_is_said(pairs: list[tuple[float, float]]) -> None:
    assert agreement(pairs) == (None, None, len(pairs))


def test_only_distinct_scored_submissions_of_one_server_count() -> None:
    entries = [
        entry(1, 0.1, 0.1, 0.3),
        entry(2, 0.2, 0.2, 0.2),
        entry(3, 0.3, 0.3, 0.1),
        entry(4, 0.3, 0.3, 0.1, sha256="3"),  # the same content again
        entry(5, None, 0.9),
        entry(6, 0.4, None),
        entry(7, 0.9, 0.0, 0.0, status="ERROR"),
        entry(8, 0.9, 0.0, server="rehearsal"),
        entry(9, 0.9, 0.0, competition="cars"),
    ]
    rows = {(row["competition"], row["server"], row["board"]): row for row in agreement_rows(entries)}
    assert list(rows) == [
        ("cards", "kaggle.com", "public"),
        ("cards", "kaggle.com", "private"),
        ("cards", "rehearsal", "public"),
        ("cars", "kaggle.com", "public"),
    ]
    public, private = rows["cards", "kaggle.com", "public"], rows["cards", "kaggle.com", "private"]
    assert (public["n"], public["Spearman"], public["Kendall"]) == (3, pytest.approx(1.0), pytest.approx(1.0))
    assert (private["n"], private["Spearman"]) == (3, pytest.approx(-1.0))
    assert rows["cards", "rehearsal", "public"]["n"] == 1
    assert [found["ref"] for found in scored(entries, "public")] == [1, 2, 4, 8, 9]
    assert agreement_rows([]) == []


def test_a_row_names_the_experiment_or_else_the_file() -> None:
    rows = submission_rows([entry(1, 0.95, 0.9), entry(2, None, None, experiment="", status="PENDING")])
    assert [row["experiment or file"] for row in rows] == ["e1", "2.csv"]
    assert rows[0]["time (UTC)"] == "2026-02-03 04:05:01"
    first = format_rows(rows, "table").splitlines()[2]
    assert first.split() == [
        "cards",
        "2026-02-03",
        "04:05:01",
        "kaggle.com",
        "e1",
        "0.9500",
        "0.0100",
        "0.9000",
        "1",
        "COMPLETE",
    ]


def kept(select_on: str, *monitors: str) -> str:
    stages = [{"name": f"s{number}", "monitor": monitor} for number, monitor in enumerate(monitors)]
    recipe = {"stages": stages} if monitors else None
    return kept_epochs({"select_on": select_on, "metric": "accuracy", "recipe": recipe})


def test_the_rule_that_chose_the_epochs_is_named() -> None:
    assert kept("last", "loss") == "the last of each stage (select_on: last)"
    inner = "on training rows held out for it (select_on: inner)"
    assert kept("inner", "loss", "loss") == f"those of the lowest loss (monitor: loss), {inner}"
    both = "lowest loss (monitor: loss) in stage s0, best accuracy (monitor: score) in stage s1"
    assert kept("inner", "loss", "score") == f"those of the {both}, {inner}"
    assert kept("inner") == f"those chosen {inner}"  # a blend
    assert "the scored fold, which flatters" in kept("fold", "score")
