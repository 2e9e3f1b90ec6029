"""Experiments held against each other, as rows and as text."""

from collections.abc import Mapping
from typing import Any

from pipeline.predictions.calibration import BINS
from pipeline.predictions.compare import Comparison, Difference, Standing
from pipeline.predictions.manifests import chosen_on, flattered_by
from pipeline.report.tables import Row, format_rows, trained_seconds

Manifests = Mapping[str, Mapping[str, Any]]


def comparison_rows(comparison: Comparison, manifests: Manifests) -> list[Row]:
    """One row an experiment, best first, with all there is to know; the reference has None for what a difference has.

    Args:
        manifests: By experiment.
    """
    return [
        {
            "competition": manifests[one.name]["competition"],
            "experiment": one.name,
            "metric": comparison.metric.name,
            "rows": comparison.rows,
            "score": one.score,
            "score_se": one.score_se,
            "accuracy": one.accuracy,
            "log_loss": one.log_loss,
            "macro_f1": one.macro_f1,
            "calibration_error": one.calibration_error,
            "tta_used": bool(manifests[one.name]["tta_used"]),
            "select_on": chosen_on(manifests[one.name]),
            "extra_rows": _extra_rows(manifests[one.name]),
            "seconds": trained_seconds(manifests[one.name]),
            **{f"fold_{fold}": score for fold, score in one.fold_scores.items()},
            "reference": comparison.reference,
            **_difference_cells(comparison.differences.get(one.name)),
        }
        for one in comparison.standings
    ]


def comparison_text(comparison: Comparison, manifests: Manifests) -> str:
    """For a person: the scores, the differences with a verdict in words, and how to read them."""
    metric, reference = comparison.metric.name, comparison.reference
    slug, rows = manifests[reference]["competition"], f"{comparison.rows:,} rows"
    role = "best" if comparison.standings[0].name == reference else "baseline"
    scores = [_score_row(one, metric, manifests) for one in comparison.standings]
    note = selection_note(manifests)
    others = [one.name for one in comparison.standings if one.name != reference]
    differences = [_difference_row(comparison, name, role) for name in others]
    return "\n".join(
        [
            f"{slug}: {len(scores)} experiments on the same {rows}, best first",
            "",
            format_rows(scores, "table"),
            "",
            f"Against {reference}, the {role} (plus: better than it)",
            "",
            format_rows(differences, "table"),
            "",
            *([f"note: {note}", ""] if note else []),
            *_legend(comparison, role),
        ]
    )


def selection_note(manifests: Manifests) -> str:
    """Whose score is flattered beside the others', as something was chosen on the scored rows; "" where none is."""
    flattered = {name: what for name, manifest in manifests.items() if (what := flattered_by(manifest))}
    others = [name for name in manifests if name not in flattered]
    if not flattered or not others:
        return ""
    chosen = dict.fromkeys(one for what in flattered.values() for one in what)
    return (
        f"{' or '.join(chosen)} were chosen on the scored rows by {', '.join(flattered)} and not by "
        f"{', '.join(others)}: the former are flattered a little"
    )


def some_have_extra_rows(manifests: Manifests) -> bool:
    return any(_extra_rows(manifest) for manifest in manifests.values())


def _extra_rows(manifest: Mapping[str, Any]) -> str:
    """The names of what it was trained on beside the competition's rows; a blend has none of its own."""
    return ", ".join(manifest.get("extra_rows") or ())


def _score_row(one: Standing, metric: str, manifests: Manifests) -> Row:
    manifest = manifests[one.name]
    beside = {"accuracy": one.accuracy, "log_loss": one.log_loss, "macro_f1": one.macro_f1}
    return {
        "experiment": one.name,
        metric: one.score,
        "± se": one.score_se,
        **{name: score for name, score in beside.items() if name != metric},
        "ECE": one.calibration_error,
        "TTA": "yes" if manifest["tta_used"] else "no",
        "select_on": chosen_on(manifest),
        **({"extra rows": _extra_rows(manifest)} if some_have_extra_rows(manifests) else {}),
        "seconds": trained_seconds(manifest),
        "by fold": " ".join(f"{score:.3f}" for score in one.fold_scores.values()),
    }


def _difference_row(comparison: Comparison, name: str, role: str) -> Row:
    one = comparison.differences[name]
    unclear = one.verdict == "not distinguishable"
    needed = f"about {_rounded(one.rows_needed):,}" if one.rows_needed else "scores are equal"
    return {
        "experiment": name,
        "difference": _signed(one.gain),
        "95 % interval": f"{_signed(one.low)} to {_signed(one.high)}",
        "only it": one.right_alone,
        f"only {role}": one.reference_right_alone,
        "McNemar p": format_p(one.mcnemar_p),
        **({} if _p_is_mcnemars(comparison) else {"p": format_p(one.p)}),
        "verdict": f"{one.verdict} with {comparison.rows:,} rows" if unclear else one.verdict,
        "rows needed": needed if unclear else "",
    }


def _p_is_mcnemars(comparison: Comparison) -> bool:
    return comparison.metric.name == "accuracy" and comparison.pairs == 1


def comparison_notes(comparison: Comparison, role: str) -> dict[str, str]:
    """What the columns of a comparison mean, and how they were made.

    Args:
        role: What the reference is: "best" or "baseline".
    """
    order = ", to first order (DeLong's placement values)" if comparison.metric.name == "roc_auc" else ""
    notes = {
        "select_on": "what chose the epochs, and the stages where it is said: fold flatters the score a little",
        "ECE": f"expected calibration error, {BINS} equally wide bins of the largest probability",
        "95 % interval": f"of the difference: paired bootstrap of the rows, {comparison.resamples:,} resamples{order}",
        f"only it, only {role}": "rows that one of the two alone gets right",
        "McNemar p": "exact test on those rows: is one right more often?",
    }
    if not _p_is_mcnemars(comparison):
        source = "McNemar's" if comparison.metric.name == "accuracy" else "of the difference over its standard error"
        corrected = f", corrected by Holm's method for {comparison.pairs} pairs" if comparison.pairs > 1 else ""
        notes["p"] = source + corrected
    p = "McNemar p" if _p_is_mcnemars(comparison) else "p"
    return notes | {
        "verdict": f"better or worse only where the interval leaves out zero and {p} is below 0.05",
        "rows needed": "to tell a difference of the size seen, at 95 % confidence and 80 % power"
        + (", corrected likewise" if comparison.pairs > 1 else ""),
    }


def _legend(comparison: Comparison, role: str) -> list[str]:
    notes = comparison_notes(comparison, role)
    width = max(map(len, notes))
    return [
        *(f"{name:{width}}  {note}" for name, note in notes.items()),
        "",
        "All of it is about these trained models: the same recipe with another seed would score differently.",
    ]


def _difference_cells(one: Difference | None) -> Row:
    names = ("gain", "gain_se", "low", "high", "right_alone", "reference_right_alone", "mcnemar_p", "p", "verdict")
    return {name: getattr(one, name, None) for name in (*names, "rows_needed")}


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # adding zero turns -0.0 into 0.0


def format_p(p: float) -> str:
    """Four digits; what is smaller is said to be so."""
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


def _rounded(count: int) -> int:
    """To two digits."""
    return round(count, 2 - len(str(count)))
