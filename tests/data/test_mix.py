"""Mixup and CutMix against values worked out by hand."""

import numpy as np
import pytest

from pipeline.data.mix import Mix, mix_pictures, mix_targets, plan_mix

SIZE = (8, 10)


def batch_of(*values: int) -> np.ndarray:
    """A picture of one grey a value."""
    return np.stack([np.full((*SIZE, 3), value, dtype=np.uint8) for value in values])


def plan(count: int = 64, *, real: int | None = None, seed: int = 0, **alphas: float) -> Mix:
    rng = np.random.default_rng(seed)
    options = {"mixup": None, "cutmix": None, **alphas}
    return plan_mix(count, real=count if real is None else real, size=SIZE, rng=rng, **options)  # type: ignore[arg-type]


def test_mixup_by_hand() -> None:
    batch = batch_of(100, 200, 40)
    mix = Mix(np.array([1, 2, 0]), np.array([0.75, 0.5, 1.0], dtype=np.float32), np.zeros((3, 4), dtype=np.int64))
    mix_pictures(batch, mix)
    assert [set(picture.ravel()) for picture in batch] == [{125}, {120}, {40}]
    targets = mix_targets(np.eye(3, dtype=np.float32), mix)
    np.testing.assert_allclose(targets, [[0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 1]])
    assert targets.dtype == np.float32


def test_cutmix_by_hand() -> None:
    batch = batch_of(100, 200)
    boxes = np.array([[0, 0, 4, 5], [6, 8, 8, 10]])
    mix = Mix(np.array([1, 0]), np.array([0.75, 0.95], dtype=np.float32), boxes)
    mix_pictures(batch, mix)
    assert (batch[0, :4, :5] == 200).all()
    assert (batch[0] == 200).mean() == pytest.approx(0.25)
    assert (batch[1, 6:, 8:] == 100).all()
    assert (batch[1] == 100).mean() == pytest.approx(0.05)


@pytest.mark.parametrize("alphas", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_a_target_holds_what_the_picture_shows(alphas: dict[str, float]) -> None:
    """Black and white pictures: the share of white in a picture is the share of white in its target."""
    mix = plan(**alphas)
    white = np.arange(64) % 2
    batch = batch_of(*(255 * white))
    mix_pictures(batch, mix)
    targets = mix_targets(np.eye(2, dtype=np.float32)[white], mix)
    np.testing.assert_allclose(batch.mean(axis=(1, 2, 3)) / 255, targets[:, 1], atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert len(np.unique(targets[:, 1])) > 8


def test_every_picture_is_somebodys_partner_and_what_fills_a_batch_up_is_left_alone() -> None:
    mix = plan(12, real=9, mixup=1.0, cutmix=1.0)
    assert sorted(mix.partners[:9]) == list(range(9))
    assert mix.partners[9:].tolist() == [9, 10, 11]
    assert (mix.shares[9:] == 1).all()
    assert not mix.boxes[9:].any()


def test_alpha_says_how_far_pictures_are_mixed() -> None:
    """A Beta(alpha, alpha) has the mean a half and the variance 1 / (4 (2 alpha + 1))."""
    for alpha in (0.2, 1.0, 5.0):
        shares = plan(4000, mixup=alpha).shares
        assert shares.mean() == pytest.approx(0.5, abs=0.03)
        assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_rectangles_lie_in_the_picture_and_a_coin_decides_where_there_are_both() -> None:
    mix = plan(1000, mixup=0.4, cutmix=1.0)
    assert (mix.boxes[:, :2] <= mix.boxes[:, 2:]).all()
    assert mix.boxes.min() == 0
    assert mix.boxes.max(axis=0)[2:].tolist() == list(SIZE)
    assert mix.boxes.any(axis=1).mean() == pytest.approx(0.5, abs=0.06)
    assert not plan(1000, mixup=0.4).boxes.any()


def test_the_seed_decides() -> None:
    assert (plan(seed=1, mixup=0.3).shares == plan(seed=1, mixup=0.3).shares).all()
    assert (plan(seed=1, mixup=0.3).shares != plan(seed=2, mixup=0.3).shares).any()
