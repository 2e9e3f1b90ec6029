"""A budget: what is given up for it, by times that are worked out by hand."""

from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.errors import DoesNotFit
from pipeline.recipe import Recipe
from pipeline.training.budget import SHARE, Budgeted, within
from pipeline.training.plan import Tried
from tests.training.conftest import recipe_of, stage
from tests.training.test_plan import probe_of

RECIPE = recipe_of(
    stage("head", epochs=4, batch_size=10, unfreeze=0, batch_norm="frozen"),
    stage("all", epochs=8, batch_size=10, schedule={"kind": "cosine", "warmup_epochs": 5}),
)
SIZE = (128, 256)


def tried() -> Tried:
    """A fold: the head 4 × 1 s on features; all 8 × (100 / 10 + 20 / 20) = 88 s; nothing else takes time."""
    free = {"setup_seconds": 0.0, "predict_setup_seconds": 0.0, "save_seconds": 0.0, "decode_seconds": 0.0}
    fast = {"feature_rate": 10.0, "train_rate": 100 / 0.5, "predict_rate": 20 / 0.5, "feature_seconds": 40.0}
    whole = {"train_rate": 10.0, "predict_rate": 20.0, "input_rate": 50.0}
    probes = [probe_of(size=SIZE, trained=100, **free, **fast), probe_of(size=SIZE, trained=100, **free, **whole)]
    return Tried(probes, folds=5, start_seconds=0.0, held_out=0, test=0, test_decode_seconds=0.0)


def fitted(seconds: float, *, folds: Sequence[int] = range(5), recipe: Recipe = RECIPE, **changes: Any) -> Budgeted:
    known: dict[str, Any] = {"smallest": 32, "used": 0.0, "decoding": lambda size: 0.0, **changes}
    return within(recipe, tried(), folds=folds, budget=seconds / SHARE + known["used"], **known)


def test_what_fits_is_left_as_it_is() -> None:
    found = fitted(40 + 5 * 92 + 1e-6)
    assert (found.recipe, found.folds, found.kept) == (RECIPE, [0, 1, 2, 3, 4], [])
    assert found.seconds == pytest.approx(40 + 5 * 92)


def test_epochs_or_pixels_go_before_folds_and_the_most_that_fits_is_kept() -> None:
    """Three quarters of the epochs take 40 + 5 · 69 s; half the pixels, in multiples of 32
    96 × 192 of 128 × 256, take 22.5 + 5 · 53.5 s."""
    found = fitted(40 + 5 * 92 - 1)
    assert found.seconds == pytest.approx(40 + 5 * 69)
    assert [one.epochs for one in found.recipe.stages] == [3, 6]
    assert found.recipe.stages[1].schedule.warmup_epochs == 5
    assert found.kept == ["75% of each stage's epochs"]
    found = fitted(22.5 + 5 * 53.5 + 1e-6)
    assert [one.size for one in found.recipe.stages] == [(96, 192)] * 2
    assert ([one.epochs for one in found.recipe.stages], found.folds) == ([4, 8], [0, 1, 2, 3, 4])
    assert found.kept == ["56% of the pixels"]
    assert found.seconds == pytest.approx(22.5 + 5 * (4 + 88 * 0.5625))


def test_then_folds_go() -> None:
    found = fitted(40 + 3 * 46 + 1, folds=[0, 1, 2, 4])
    assert found.folds == [0, 1, 2, 4], "half of all for four folds"
    found = fitted(22.5 + 4 * 26.75 - 1, folds=[0, 1, 2, 4])
    assert found.folds == [0, 1, 2]
    assert found.kept[0] == "3 of 4 folds"
    found = fitted(40 + 92 + 1e-6, folds=[3])
    assert (found.folds, found.kept) == ([3], [])


def test_a_warm_up_is_shorter_than_its_stage() -> None:
    found = fitted(40 + 46 + 1e-6, folds=[0])
    assert [one.epochs for one in found.recipe.stages] == [2, 4]
    assert found.recipe.stages[1].schedule.warmup_epochs == 2


def test_no_picture_is_smaller_than_the_backbone_sees() -> None:
    found = fitted(40 + 5 * 46 - 100, smallest=128)
    assert [one.size for one in found.recipe.stages] == [(128, 224)] * 2


def test_a_size_that_is_not_decoded_yet_costs_its_decoding() -> None:
    found = fitted(22.5 + 5 * 53.5 + 1e-6, decoding=lambda size: 0.0 if size == SIZE else 500.0)
    assert ([one.epochs for one in found.recipe.stages], found.kept) == ([2, 4], ["50% of each stage's epochs"])


def test_what_trying_took_is_of_the_budget() -> None:
    assert fitted(40 + 5 * 92 + 1e-6, used=30.0).kept == []
    with pytest.raises(DoesNotFit, match=r"does not fit into 100 s, of which trying it took 90 s") as caught:
        within(RECIPE, tried(), folds=[0], smallest=32, budget=100.0, used=90.0, decoding=lambda size: 0.0)
    assert "--budget 3m" in caught.value.next_step, "90 s and 49 of 0.9"


def test_what_fits_in_no_way_is_refused_with_the_time_that_would_do() -> None:
    with pytest.raises(DoesNotFit, match=r"one fold of half its epochs on half the pixels takes about 49 s") as caught:
        fitted(20)
    assert "--budget 1m" in caught.value.next_step
