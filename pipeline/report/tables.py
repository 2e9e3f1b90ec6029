"""Results as rows, and rows as text."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import sqrt
from operator import itemgetter
from statistics import correlation
from typing import TYPE_CHECKING, Any, Literal

from pipeline.predictions.manifests import chosen_on, extra_in_words, folds_in_words, left_aside, stages_in_words

if TYPE_CHECKING:
    from pipeline.predictions.calibration import OofTemperature

Row = dict[str, Any]

FEWEST = 3
"""Two submissions have one of two orders: a rank correlation of fewer than three says nothing."""


CHOSEN_BY = {
    "fold": "the scored fold, which flatters the score a little (select_on: fold)",
    "inner": "training rows held out for it (select_on: inner)",
}

VALIDATED_ON = {
    "fold": "the rows it held out, which chose the epochs, too",
    "inner": "its inner rows, which chose the epochs and were not trained on",
    "last": "the rows it held out, which chose no epoch",
}
KEPT_EPOCH = {"fold": "best", "inner": "best", "last": "last"}


class Measured(float):
    """A number that is not exact, such as a speed: tables show it whole, or with two digits where it is small."""

    def __str__(self) -> str:
        return f"{self:.0f}" if abs(self) >= 10 else f"{self:.2g}"


def format_rows(rows: Sequence[Row], style: Literal["table", "json", "csv"] | str) -> str:
    """Rows that have the same keys, as aligned columns, JSON or CSV; without a newline at the end."""
    if style == "json":
        return json.dumps(rows, indent=2, ensure_ascii=False)
    if not rows:
        return ""
    if style == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")
    return _aligned(rows)


def result_text(manifest: Row) -> str:
    """An experiment's result for a person: chance, each stage and the end in one table; then how to read it."""
    folds = ", ".join(f"{score:.4f}" for score in manifest["oof_fold_scores"].values())
    lines = [_aligned(_result_rows(manifest)), "", f"OOF by fold: {folds}   ({manifest['oof_rows']} rows)"]
    if manifest["missing_folds"]:
        trained = f"{folds_in_words(manifest)} folds are trained"
        lines.append(f"{trained}: all scores are of their rows, the test predictions of their models")
    if manifest["tta_gain"] is not None:
        used = "used" if manifest["tta_used"] else "not used"
        gain = f"{manifest['tta_gain']:+.4f} ± {manifest['tta_gain_se']:.4f}"
        lines.append(f"TTA changes the score on the same rows by {gain} (plus is better): {used} for the test pictures")
        if len(manifest["oof_fold_scores"]) == 1:
            lines.append("(there is one fold: TTA was chosen by the very rows it is scored on)")
    if manifest.get("decision"):
        lines.append(_decision_text(manifest["decision"], manifest["metric"]))
    if manifest["stages"]:  # a blend has none
        lines.append(
            f"seconds: of {folds_in_words(manifest)} folds, building, compiling and epochs; OOF: predicting, too\n"
            "left out of them: starting, reading and, where they are kept, decoding pictures"
        )
    if manifest["select_on"]:
        lines.append(f"epochs kept: {kept_epochs(manifest)}")
    if kept := stages_in_words(manifest):
        lines.append(f"stages kept: {kept}")
    if manifest.get("extra_rows"):  # a blend has none of its own
        lines.append(f"extra rows: {extra_in_words(manifest['extra_rows'])}")
    return "\n".join(lines)


def _decision_text(decision: Mapping[str, Any], metric: str) -> str:
    """What thresholds or cut points are worth, in one line."""
    what = {
        "cuts": "cut points on the expected class",
        "thresholds": "a threshold a class",
        "threshold": "one threshold",
    }
    if not decision["values"]:
        return f"{what[decision['kind']]}: not fitted, as there is one fold and nothing to score them on"
    said = f"{decision['score']:.4f} ± {decision['score_se']:.4f} with values fitted on the other folds"
    gain = f"{decision['gain']:+.4f} ± {decision['gain_se']:.4f}"
    used = "used" if decision["used"] else "not used, as that is no more than its error"
    return f"{what[decision['kind']]}: {metric} {said}, {gain} (plus is better): {used} for submissions"


def kept_epochs(manifest: Mapping[str, Any]) -> str:
    """Which epoch each stage kept, and by which rule; see `Stage.monitor`. A blend's is that of its members."""
    if manifest["select_on"] == "last":
        return "the last of each stage (select_on: last)"
    stages = (manifest["recipe"] or {}).get("stages", ())
    words = {"loss": "lowest loss (monitor: loss)", "score": f"best {manifest['metric']} (monitor: score)"}
    rules = dict.fromkeys(words[stage["monitor"]] for stage in stages)
    if len(rules) > 1:
        rules = dict.fromkeys(f"{words[stage['monitor']]} in stage {stage['name']}" for stage in stages)
    chosen = f"of the {', '.join(rules)}, on" if rules else "chosen on"
    return f"those {chosen} {CHOSEN_BY[manifest['select_on']]}"


def calibration_text(temperature: "OofTemperature | None", *, chosen: Sequence[str], models: int, raw: bool) -> str:
    """What was done to probabilities, in one line: nothing (`raw`, or no temperature fits), or a temperature.

    Args:
        chosen: What was chosen on the rows that it is fitted on, as of `flattered_by`.
        models: How many fold models the probabilities are the mean of.
    """
    if raw:
        return "as predicted, not calibrated"
    if temperature is None:
        return "as predicted: no temperature is fitted where every OOF row is right, or where there are several labels"
    change = f"{temperature.error_before:.4f} → {temperature.error_after:.4f}"
    if not temperature.helps:
        return f"as predicted: a temperature fitted to the OOF predictions does not lower their ECE ({change})"
    parts = [
        f"calibrated by temperature {temperature.value:.3f}, fitted on OOF predictions",
        f"ECE of single fold models there {change}",
    ]
    if temperature.folds == 1:
        parts.append("on the rows it was fitted on, as there is one fold")
    if chosen:
        parts.append(f"on rows that chose the {' and '.join(chosen)}, too")
    if models > 1:
        parts.append(f"that of the mean of {models}, shown here, is not known")
    return "; ".join(parts)


def printable(text: str) -> str:
    """A text that can be written: a file's name that is not UTF-8 holds surrogates, which become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def leaderboard_rows(manifests: Sequence[Row], *, folds: Mapping[str, str | None] | None = None) -> list[Row]:
    """One row an experiment and a floor, by competition, best first.

    Args:
        folds: `folds_sha256` of each competition, where it is known: of an experiment on other folds it is said.
    """
    rows: list[Row] = []
    for slug in sorted({manifest["competition"] for manifest in manifests}):
        of_slug = [manifest for manifest in manifests if manifest["competition"] == slug]
        current = (folds or {}).get(slug)
        entries = [
            {
                "competition": slug,
                "experiment": manifest["experiment"],
                "folds": folds_in_words(manifest) + ", other folds" * (current not in (None, manifest["folds_sha256"])),
                "metric": manifest["metric"],
                "score": manifest["oof_score"],
                "± se": manifest["oof_score_se"],
                "without TTA": manifest["score"],
                "with TTA": manifest["tta_score"],
                "TTA used": "yes" if manifest["tta_used"] else "no",
                "select_on": chosen_on(manifest),
                "extra rows": ", ".join(manifest.get("extra_rows") or ()),
                "seconds": trained_seconds(manifest),
                "created": manifest["created"],
            }
            for manifest in of_slug
        ]
        nothing = dict.fromkeys(
            ("without TTA", "with TTA", "TTA used", "select_on", "extra rows", "seconds", "created")
        )
        widest = max(of_slug, key=lambda manifest: len(manifest["folds"]))
        for name, floor in widest["floors"].items():
            head = {"competition": slug, "experiment": f"({name})", "folds": None, "metric": widest["metric"]}
            entries.append({**head, "score": floor["score"], "± se": floor["score_se"], **nothing})
        rows += sorted(entries, key=itemgetter("score"), reverse=of_slug[0]["greater_is_better"])
    return rows


def submission_rows(entries: Sequence[Row]) -> list[Row]:
    """One short row a submission, for a person: OOF beside the leaderboard.

    Args:
        entries: Rows of ledgers, with the column competition before the ledger's own.
    """
    return [
        {
            "competition": entry["competition"],
            "time (UTC)": entry["time"].partition("+")[0].replace("T", " "),
            "server": entry["server"],
            "experiment or file": entry["experiment"] or entry["file"].rpartition("/")[2],
            "OOF": entry["oof_score"],
            "± se": entry["oof_score_se"],
            "public": entry["public_score"],
            "private": entry["private_score"],
            "ref": entry["ref"],
            "status": str(entry["status"]),
        }
        for entry in entries
    ]


def scored(entries: Sequence[Row], board: str) -> list[Row]:
    """The entries with an OOF score and a score on this board, each content once: sent again, it says nothing new.

    Args:
        board: "public" or "private".
    """
    known = [
        entry
        for entry in entries
        if entry["status"] == "COMPLETE" and None not in (entry["oof_score"], entry[f"{board}_score"])
    ]
    return list({(entry["competition"], entry["server"], entry["sha256"]): entry for entry in known}.values())


def agreement_rows(entries: Sequence[Row]) -> list[Row]:
    """How well OOF ranks submissions as the leaderboard does: a row a competition, server and board with scores.

    Spearman's rho and Kendall's tau-b; None for fewer than `FEWEST` submissions, or where all of one side are equal.
    """
    rows: list[Row] = []
    for competition, server in sorted({(entry["competition"], entry["server"]) for entry in entries}):
        own = [entry for entry in entries if (entry["competition"], entry["server"]) == (competition, server)]
        for board in ("public", "private"):
            pairs = [(entry["oof_score"], entry[f"{board}_score"]) for entry in scored(own, board)]
            oof, leaderboard = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            known = len(pairs) >= FEWEST and len(set(oof)) > 1 and len(set(leaderboard)) > 1
            rows.append(
                {
                    "competition": competition,
                    "server": server,
                    "board": board,
                    "Spearman": correlation(_ranks(oof), _ranks(leaderboard)) if known else None,
                    "Kendall": _kendall(pairs) if known else None,
                    "n": len(pairs),
                }
            )
    return [row for row in rows if row["n"]]


# By their definitions: scipy.stats takes longer to import than all the rest of a listing.
def _ranks(values: Sequence[float]) -> list[float]:
    """The place of each value, half a place for each one equal to it."""
    return [sum(other < value for other in values) + values.count(value) / 2 for value in values]


def _kendall(pairs: Sequence[tuple[float, float]]) -> float:
    """Kendall's tau-b."""
    steps = [((a > b) - (a < b), (c > d) - (c < d)) for (a, c), (b, d) in combinations(pairs, 2)]
    untied = sum(one != 0 for one, _ in steps) * sum(other != 0 for _, other in steps)
    return sum(one * other for one, other in steps) / sqrt(untied)


def _result_rows(manifest: Row) -> list[Row]:
    aside = left_aside(manifest)

    def row(name: str, scores: Row, *, prefix: str = "", **more: Any) -> Row:
        score, error = scores[f"{prefix}score"], scores[f"{prefix}score_se"]
        costs = {"size": more.get("size", ""), "images/s": more.get("rate"), "seconds": more.get("seconds")}
        left = {"left aside in folds": ", ".join(map(str, more.get("aside", ())))} if aside else {}
        return {"": name, manifest["metric"]: score, "± se": error, **costs, **left}

    rows = [row(name, floor) for name, floor in manifest["floors"].items()]
    rows += [
        row(
            f"stage {stage['name']}",
            stage,
            size="×".join(map(str, stage["size"])),
            rate=round(stage["images_per_second"]),
            seconds=round(stage["seconds"]),
            aside=aside.get(stage["name"], ()),
        )
        for stage in manifest["stages"]
    ]
    rows.append(row("OOF", manifest, seconds=trained_seconds(manifest)))
    if manifest["tta_score"] is not None:
        rows.append(row("OOF with TTA", manifest, prefix="tta_"))
    if len(set(manifest["tta_used_by_fold"].values())) > 1:
        rows.append(row("OOF, TTA as other folds choose", manifest, prefix="oof_"))
    return rows


def trained_seconds(manifest: Mapping[str, Any]) -> int | None:
    """All stages and the predictions at the end, over all folds; None for a blend, which trains nothing."""
    return round(manifest["seconds"]) if manifest["stages"] else None


def _aligned(rows: Sequence[Row]) -> str:
    columns = list(rows[0])
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    numeric = [all(isinstance(row[column], int | float | None) for row in rows) for column in columns]
    lines = [columns, ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) and not isinstance(value, Measured) else str(value)
