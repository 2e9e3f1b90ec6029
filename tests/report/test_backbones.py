"""Backbones compared, in words and as a figure."""

import json
from dataclasses import replace
from pathlib import Path

from PIL import Image

from pipeline.predictions.probe import Candidate, Pass, Probed, Probes
from pipeline.report.backbones import backbone_rows, backbones_figure, backbones_text, recommendation
from pipeline.report.plots import save_figure
from pipeline.report.tables import format_rows
from tests.report.test_plots import overlaps


def probed(name: str, score: float, gain: float, gain_se: float, flops: int) -> Probed:
    cost = Pass(1_840_000, 7_360_000, flops, 31.4, 1_300_000_000, None, "CPU", "2026-11-21 17:05")
    return Probed(Candidate(name, "imagenet"), score, 0.02, gain, gain_se, -gain > 2 * gain_se, cost)


BEST, NEAR, FAR = (
    probed("best", 0.8, 0.0, 0.0, 8 * 10**9),
    probed("near", 0.79, -0.01, 0.02, 10**9),
    probed("far", 0.6, -0.2, 0.02, 10**8),
)
LEFT_OUT = {Candidate("gone", "imagenet"): "no file"}
PROBES = Probes("accuracy", 800, (160, 288), [BEST, NEAR, FAR], LEFT_OUT, 0.1, decoding=False)


def test_the_cheaper_of_equals_is_recommended_with_its_reason() -> None:
    text = recommendation(PROBES)
    assert text.startswith("recommended: near (imagenet): the fewest operations")
    assert "best (imagenet), which scores better by 0.0100 ± 0.0200" in text
    assert text.endswith("not to be told apart from the best (95 %, for all pairs together): near (imagenet)")


def test_where_nothing_can_be_told_apart_it_says_so() -> None:
    assert "none of them can be told apart" in recommendation(replace(PROBES, found=[BEST, NEAR]))
    assert "told apart" not in recommendation(replace(PROBES, found=[BEST, FAR]))
    assert "nothing to compare" in recommendation(replace(PROBES, found=[BEST]))


def test_rows_and_text() -> None:
    first = backbone_rows(PROBES)[0]
    assert (first["backbone"], first["weights"], first["accuracy"]) == ("best", "imagenet", 0.8)
    assert (first["weights MB"], first["MFLOPs/picture"], first["peak MB"]) == (7.36, 8000, 1300)
    assert json.loads(format_rows(backbone_rows(PROBES), "json"))[0]["pictures/s"] == 31.4
    assert [row["recommended"] for row in backbone_rows(PROBES)] == [False, True, False]
    text = backbones_text(PROBES)
    assert "  7.4            8000          31     1300  2026-11-21 17:05 on CPU\n" in text
    assert "decoding" not in text
    assert "800 rows at 160×288; without the pictures 0.1000" in text
    assert "left out: gone (imagenet): no file" in text
    assert "pictures/s hold their decoding" in backbones_text(replace(PROBES, decoding=True))


def test_slow_networks_do_not_have_a_speed_of_zero() -> None:
    slow = replace(BEST, cost=replace(BEST.cost, pictures_per_second=0.314, weight_bytes=392_640))
    line = backbones_text(replace(PROBES, found=[slow])).splitlines()[2]
    assert "  0.39  " in line
    assert "  0.31  " in line


def test_the_memory_of_a_gpu_has_a_column_where_one_was_used() -> None:
    assert "GPU MB" not in backbone_rows(PROBES)[0]
    on_gpu = replace(FAR, cost=replace(FAR.cost, device_bytes=2_000_000_000, device="GPU"))
    rows = backbone_rows(replace(PROBES, found=[BEST, on_gpu]))
    assert [row["GPU MB"] for row in rows] == [None, 2000]
    assert [row["measured (UTC)"][-6:] for row in rows] == ["on CPU", "on GPU"]


def test_the_figure_names_all_and_grows_with_them(tmp_path: Path) -> None:
    figure = backbones_figure(PROBES, title="t")
    assert overlaps(figure) == []
    names = {text.get_text() for text in figure.axes[1].texts}
    assert names == {"1  best (imagenet)", "2  near (imagenet)", "3  far (imagenet)"}
    heights = []
    for count in (3, 40):
        figure = backbones_figure(replace(PROBES, found=[BEST, *[FAR] * (count - 1)]), title="many")
        save_figure(figure, tmp_path / "figure.png")
        with Image.open(tmp_path / "figure.png") as image:
            heights.append(image.height)
    assert heights[1] > 2 * heights[0]


def at(name: str, score: float, flops: int, error: float) -> Probed:
    return replace(probed(name, score, -0.01, 0.01, flops), score_se=error)


def test_the_axis_is_of_the_scores_wherever_the_floor_is() -> None:
    found = [at("best", 0.96, 10**9, 0.004), at("next", 0.94, 5 * 10**8, 0.006)]
    axis = backbones_figure(replace(PROBES, found=found, floor=0.1), title="t").axes[0]
    low, high = axis.get_ylim()
    assert 0.92 < low < 0.934 < 0.964 < high < 0.98  # the ends of the errors
    assert "without the pictures 0.1000, which lies further ↓" in [text.get_text() for text in axis.texts]
    near = backbones_figure(replace(PROBES, found=found, floor=0.95), title="t").axes[0]
    assert "without the pictures" in [text.get_text() for text in near.texts]


def test_points_that_lie_close_have_their_numbers_apart() -> None:
    found = [at(f"backbone-{number}", 0.95 - number / 2000, 10**9 + number * 10**7, 0.004) for number in range(20)]
    found.append(at("far", 0.5, 10**11, 0.004))  # for which the others are drawn close
    figure = backbones_figure(replace(PROBES, found=found), title="t")
    assert overlaps(figure) == []
    assert {text.get_text() for text in figure.axes[0].texts} >= {str(number) for number in range(1, 21)}
