"""Results as rows, and rows as text."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, Literal

Row = dict[str, Any]


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
    """An experiment's result for a person: chance, each stage and the end in one table; then what TTA did."""
    folds = ", ".join(f"{score:.4f}" for score in manifest["fold_scores"].values())
    lines = [_aligned(_result_rows(manifest)), "", f"OOF by fold: {folds}   ({manifest['oof_rows']} rows)"]
    if manifest["tta_gain"] is not None:
        used = "used" if manifest["tta_used"] else "not used"
        gain = f"{manifest['tta_gain']:+.4f} ± {manifest['tta_gain_se']:.4f}"
        lines.append(f"TTA changes the score on the same rows by {gain} (plus is better): {used}")
    return "\n".join(lines)


def leaderboard_rows(manifests: Sequence[Row]) -> list[Row]:
    """One row an experiment and a floor, by competition, best first."""
    rows: list[Row] = []
    for slug in sorted({manifest["competition"] for manifest in manifests}):
        of_slug = [manifest for manifest in manifests if manifest["competition"] == slug]
        entries = [
            {
                "competition": slug,
                "experiment": manifest["experiment"],
                "metric": manifest["metric"],
                "score": manifest["score"],
                "± se": manifest["score_se"],
                "with TTA": manifest["tta_score"],
                "TTA used": "yes" if manifest["tta_used"] else "no",
                "seconds": _seconds(manifest),
                "created": manifest["created"],
            }
            for manifest in of_slug
        ]
        nothing = dict.fromkeys(("with TTA", "TTA used", "seconds", "created"))
        for name, floor in of_slug[0]["floors"].items():
            head = {"competition": slug, "experiment": f"({name})", "metric": of_slug[0]["metric"]}
            entries.append({**head, "score": floor["score"], "± se": floor["score_se"], **nothing})
        rows += sorted(entries, key=_score_used, reverse=of_slug[0]["greater_is_better"])
    return rows


def _result_rows(manifest: Row) -> list[Row]:
    def row(name: str, scores: Row, *, prefix: str = "", **more: Any) -> Row:
        score, error = scores[f"{prefix}score"], scores[f"{prefix}score_se"]
        costs = {"size": more.get("size", ""), "images/s": more.get("rate"), "seconds": more.get("seconds")}
        return {"": name, manifest["metric"]: score, "± se": error, **costs}

    rows = [row(name, floor) for name, floor in manifest["floors"].items()]
    rows += [
        row(
            f"stage {stage['name']}",
            stage,
            size="×".join(map(str, stage["size"])),
            rate=round(stage["images_per_second"]),
            seconds=round(stage["seconds"]),
        )
        for stage in manifest["stages"]
    ]
    rows.append(row("OOF", manifest, seconds=_seconds(manifest)))
    if manifest["tta_score"] is not None:
        rows.append(row("OOF with TTA", manifest, prefix="tta_"))
    return rows


def _score_used(row: Row) -> float:
    return float(row["with TTA"] if row["TTA used"] == "yes" else row["score"])


def _seconds(manifest: Row) -> int:
    seconds: float = sum(stage["seconds"] for stage in manifest["stages"])
    return round(seconds)


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
    return f"{value:.4f}" if isinstance(value, float) else str(value)
