"""Backbones compared: as rows, in words, and as a figure of score against cost."""

from typing import TYPE_CHECKING, Any

from pipeline.predictions.probe import Probes, recommended
from pipeline.report.figures import BLUE, RED
from pipeline.report.plots import FAINT, GRID, INK, name_points, new_figure
from pipeline.report.tables import Measured, Row, format_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SURELY = "95 %, for all pairs together"


def backbone_rows(probes: Probes) -> list[Row]:
    """One row a backbone, best first; the differences are to the best, on the same rows, minus where it is worse."""
    chosen = recommended(probes.found)
    on_gpu = any(one.cost.device_bytes is not None for one in probes.found)
    return [
        {
            "backbone": one.candidate.backbone,
            "weights": one.candidate.weights,
            probes.metric: one.score,
            "± se": one.score_se,
            "difference": one.gain,
            "± se of difference": one.gain_se,
            "parameters": one.cost.parameters,
            "weights MB": Measured(one.cost.weight_bytes / 1e6),
            "MFLOPs/picture": Measured(one.cost.flops / 1e6),
            "pictures/s": Measured(one.cost.pictures_per_second),
            "peak MB": Measured(one.cost.peak_bytes / 1e6),
            **({"GPU MB": _megabytes(one.cost.device_bytes)} if on_gpu else {}),
            "measured (UTC)": f"{one.cost.measured} on {one.cost.device}",
            "recommended": one is chosen,
        }
        for one in probes.found
    ]


def backbones_text(probes: Probes) -> str:
    """The table, and what it says."""
    height, width = probes.size
    rows = [{name: value for name, value in row.items() if name != "recommended"} for row in backbone_rows(probes)]
    lines = [
        format_rows(rows, "table"),
        "",
        f"linear heads on frozen features, scored out of fold: {probes.rows} rows at {height}×{width}; "
        f"without the pictures {probes.floor:.4f}",
        "difference: from the best, on the same rows; minus is worse",
        *(["pictures/s hold their decoding: there is no room to keep them decoded (--cache-gb)"] * probes.decoding),
        recommendation(probes),
    ]
    return "\n".join([*lines, *left_out_text(probes)])


def left_out_text(probes: Probes) -> list[str]:
    """One line a reason, with all whom it left out."""
    names: dict[str, list[str]] = {}
    for one, reason in probes.left_out.items():
        names.setdefault(reason, []).append(one.name)
    return [f"left out: {', '.join(those)}: {reason}" for reason, those in names.items()]


def recommendation(probes: Probes) -> str:
    """Which backbone to take, and why."""
    best, chosen = probes.found[0], recommended(probes.found)
    if len(probes.found) == 1:
        return f"recommended: {best.candidate.name}; there is nothing to compare it with"
    if chosen is best:
        reason = "the best, and none with fewer operations is within one standard error of it"
    else:
        gap = f"{-chosen.gain:.4f} ± {chosen.gain_se:.4f}"
        reason = f"the fewest operations within one standard error of the best, {best.candidate.name}"
        reason += f", which scores better by {gap}"
    alike = [one.candidate.name for one in probes.found[1:] if not one.told_apart]
    if len(alike) == len(probes.found) - 1:
        rows = f"on these {probes.rows} rows none of them can be told apart from the best ({_SURELY})"
        return f"recommended: {chosen.candidate.name}: {reason}\n{rows}: the scores choose nothing, the costs may"
    if alike:
        reason += f"\nnot to be told apart from the best ({_SURELY}): {', '.join(alike)}"
    return f"recommended: {chosen.candidate.name}: {reason}"


def _megabytes(size: int | None) -> Measured | None:
    return None if size is None else Measured(size / 1e6)


def backbones_figure(probes: Probes, *, title: str) -> "Figure":
    """Score with its standard error over the operations a picture takes; numbered, best first, the recommended red."""
    lines = max(15, len(probes.found) + 1)
    figure = new_figure(10.5, lines / 3, title=title)
    axis, key = figure.subplots(1, 2, gridspec_kw={"width_ratios": [3, 1]})
    chosen, names = recommended(probes.found), []
    for number, one in enumerate(probes.found, start=1):
        colour, (x, y) = RED if one is chosen else BLUE, (one.cost.flops / 1e9, one.score)
        axis.errorbar(x, y, yerr=one.score_se, fmt="o", color=colour, markersize=6, capsize=3, elinewidth=1.2)
        names.append((str(number), x, y, colour))
        key.text(
            0, 1 - number / lines, f"{number}  {one.candidate.name}", fontsize=9, color=RED if one is chosen else INK
        )
    key.set_axis_off()
    axis.set_xscale("log")
    axis.margins(x=0.1, y=0.08)
    _mark_floor(axis, probes.floor)
    axis.set_xlabel("GFLOPs a picture (forward pass)")
    axis.set_ylabel(f"out-of-fold {probes.metric} of a linear head ± standard error")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.1e}"[0] in "25" else "")
    axis.tick_params(axis="x", which="both", labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="both", color=GRID, linewidth=0.7)
    axis.set_axisbelow(True)
    name_points(axis, names, size=10)
    return figure


def _mark_floor(axis: Any, floor: float) -> None:
    """A line where it is among the scores; else words, as the axis is for these."""
    low, high = axis.get_ylim()
    style: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "ha": "right", "fontsize": 8, "color": FAINT}
    if low < floor < high:
        axis.axhline(floor, color=FAINT, linewidth=1, linestyle=":")
        axis.text(0.995, floor, "without the pictures", va="bottom", **style)
    else:
        arrow, at, side = ("↓", low, "bottom") if floor <= low else ("↑", high, "top")
        axis.text(0.995, at, f"without the pictures {floor:.4f}, which lies further {arrow}", va=side, **style)
