"""Backbones compared: one pass each, honest folds, and those that cannot be tried."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts import Workspace
from pipeline.competition import Competition
from pipeline.data.competition_data import load_data
from pipeline.errors import KitError, RecipeError
from pipeline.model.backbones import BACKBONES
from pipeline.model.torch_weights import PackagedFile
from pipeline.predictions.probe import Candidate
from pipeline.report.backbones import left_out_text
from pipeline.training import compare_backbones as module
from pipeline.training.compare_backbones import (
    SHORT_LIST,
    PassTask,
    candidates_of,
    compare_backbones,
    default_size,
    expected_seconds,
    head_predictions,
    out_of_reach,
    read_features,
)
from pipeline.training.fold import Machine

TINY = Candidate("tiny", "none")


def here(work: Callable[[Any], Any], argument: Any, *, what: str) -> Any:
    """In this process, which has TensorFlow already."""
    return work(argument)


def test_a_comparison_and_its_second_call(tiny_competition: Competition, tmp_path: Path) -> None:
    passes: list[PassTask] = []

    def counting(work: Callable[[Any], Any], argument: Any, *, what: str) -> Any:
        passes.append(argument)
        return work(argument)

    asked = [TINY, Candidate("xception", "none")]  # of which one cannot take pictures this small
    probes = compare_backbones(
        tiny_competition, asked, workspace=Workspace(tmp_path), size=(32, 32), machine=Machine(0), run=counting
    )
    assert [one.candidate for one in probes.found] == [TINY]
    assert probes.found[0].score > 0.8  # the classes are colours, which random features tell apart
    assert probes.found[0].cost.parameters == 98_160
    assert probes.found[0].cost.peak_bytes > 10**8
    assert probes.rows == 24
    assert "too few" in probes.left_out[asked[1]]
    assert len(passes) == 1  # for both folds
    again = compare_backbones(
        tiny_competition, [TINY], workspace=Workspace(tmp_path), size=(32, 32), machine=Machine(0), run=counting
    )
    assert again.found == probes.found
    assert len(passes) == 1
    larger = compare_backbones(
        tiny_competition, [TINY], workspace=Workspace(tmp_path), size=(32, 64), machine=Machine(0), run=counting
    )
    assert len(passes) == 2
    assert larger.found[0].cost.flops == 2 * probes.found[0].cost.flops
    assert read_features(passes[0].file)[0].shape == (24, 128)


def test_a_speed_with_decoding_in_it_is_measured_by_itself(tiny_competition: Competition, tmp_path: Path) -> None:
    options: dict[str, Any] = {"workspace": Workspace(tmp_path), "size": (32, 32), "run": here}
    decoded = compare_backbones(tiny_competition, [TINY], machine=Machine(0, cache_gb=0.0), **options)
    kept = compare_backbones(tiny_competition, [TINY], machine=Machine(0), **options)
    assert (kept.decoding, decoded.decoding) == (False, True)
    assert kept.found[0].cost.pictures_per_second != decoded.found[0].cost.pictures_per_second
    assert kept.found[0].score == decoded.found[0].score
    moment = datetime.strptime(kept.found[0].cost.measured, "%Y-%m-%d %H:%M").replace(tzinfo=UTC)
    assert timedelta() <= datetime.now(UTC) - moment < timedelta(minutes=10)
    assert kept.found[0].cost.device == ("CPU" if kept.found[0].cost.device_bytes is None else "GPU")


def test_no_labels_of_a_fold_reach_its_predictions(tiny_competition: Competition) -> None:
    data = load_data(tiny_competition)
    features = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    before = head_predictions(features, data)
    held_out = data.rows_of(0)
    data.labels[held_out] = (data.labels[held_out] + 1) % 3
    data.train.loc[held_out, "label"] = [data.classes[number] for number in data.labels[held_out]]
    after = head_predictions(features, data)
    np.testing.assert_array_equal(after[held_out], before[held_out])
    assert not np.array_equal(after[data.rows_of(1)], before[data.rows_of(1)])


def test_weights_that_cannot_be_had_leave_the_others_alone(
    tiny_competition: Competition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network: they are not built, and a server is asked once."""
    asked, passes, said = [], [], []
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    reachable = module.reachable
    monkeypatch.setattr(module, "reachable", lambda host: asked.append(host) or reachable(host))

    def counting(work: Callable[[Any], Any], argument: Any, *, what: str) -> Any:
        passes.append(argument.candidate)
        return work(argument)

    options: dict[str, Any] = {"workspace": Workspace(tmp_path), "size": (32, 32), "run": counting, "say": said.append}
    lacking = [Candidate(name, "imagenet") for name in ("mobilenet-0.25", "mobilenet-0.5", "densenet-121")]
    probes = compare_backbones(tiny_competition, [*lacking, TINY], **options)
    assert passes == [TINY] and asked == ["keras-tf"]
    assert list(probes.left_out) == lacking
    for reason in probes.left_out.values():
        assert reason.startswith(f"its weights are not in {tmp_path / 'keras' / 'models'}, and https://")
    assert said == ["1 network over 24 pictures of 32×32: about 1 min"]
    [line] = left_out_text(probes)
    assert line.startswith(
        "left out: mobilenet-0.25 (imagenet), mobilenet-0.5 (imagenet), densenet-121 (imagenet): its weights"
    )
    with pytest.raises(KitError, match=r"none of the backbones[\s\S]*cannot be reached"):
        compare_backbones(tiny_competition, lacking, **options)
    assert compare_backbones(tiny_competition, [TINY], **options).found == probes.found
    assert len(said) == 1, "what is kept takes no time"


def test_weights_that_are_here_or_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    lite, mobile = Candidate("efficientnet-lite0", "imagenet"), Candidate("mobilenet-0.25", "imagenet")
    monkeypatch.setattr(PackagedFile, "packaged", lambda self: None)
    assert "pip install" in out_of_reach([lite])[lite]
    for one in (lite, mobile):
        file = tmp_path / "models" / BACKBONES[one.backbone].files["imagenet"].name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    assert out_of_reach([lite, mobile, TINY]) == {}


def test_what_takes_longer_is_said_to() -> None:
    small, large = Candidate("mobilenet-v2-1.0", "imagenet"), Candidate("xception", "imagenet")
    usual = {"rows": 1000, "size": (224, 224)}
    least = expected_seconds([small], **usual)
    for longer in ({**usual, "rows": 2000}, {**usual, "size": (448, 224)}):
        assert least < expected_seconds([small], **longer) < 2 * least
    assert expected_seconds([large], **usual) > least
    assert expected_seconds([small, large], **usual) == pytest.approx(least + expected_seconds([large], **usual))
    assert list(SHORT_LIST.values()) == sorted(SHORT_LIST.values())


def test_how_backbones_are_named() -> None:
    found = candidates_of(["tiny=none", "mobilenet-0.75"], weights="imagenet")
    assert found == [TINY, Candidate("mobilenet-0.75", "imagenet")]
    assert [one.backbone for one in candidates_of([], weights="imagenet")] == list(module.SHORT_LIST)
    for names, named in ((["tinny=none"], "tinny"), (["tiny"], "imagenet"), (["tiny=none"] * 2, "twice")):
        with pytest.raises(RecipeError, match=named):
            candidates_of(names, weights="imagenet")


def test_the_default_size_keeps_the_shape_and_is_rounded() -> None:
    assert default_size((356, 644)) == (160, 288)
    assert default_size((224, 224)) == (224, 224)
    assert default_size((32, 40)) == (32, 32)
    assert default_size((112, 112)) == (128, 128)
