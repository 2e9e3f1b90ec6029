"""Mixup and CutMix: pictures of a batch laid over one another, and their targets with them.

Mixup (Zhang et al., 2018): share × picture + (1 − share) × partner. CutMix (Yun et al., 2019): a rectangle of the
partner in the picture; the share is what is left of the picture's area. The share is drawn for each picture from
Beta(alpha, alpha); with both methods a coin decides for each picture.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Mix:
    """What is laid over each picture of a batch.

    Attributes:
        partners: The position in the batch of each picture's partner, int64 of shape (batch,).
        shares: How much of each target is the picture's own, float32 of shape (batch,).
        boxes: top, left, bottom and right of the partner's rectangle, int64 of shape (batch, 4); a mixup picture has
            an empty one.
    """

    partners: NDArray[np.int64]
    shares: NDArray[np.float32]
    boxes: NDArray[np.int64]


def plan_mix(
    count: int,
    *,
    real: int,
    size: tuple[int, int],
    mixup: float | None,
    cutmix: float | None,
    rng: np.random.Generator,
) -> Mix:
    """Draw partners and shares.

    Args:
        count: Pictures in the batch.
        real: How many of them, from the first on, are not there to fill it up: the others are left alone.
        size: Height and width in pixels.
        mixup: Its alpha; None leaves it out. At least one of the two is given.
        cutmix: Its alpha, likewise.
    """
    partners, shares = np.arange(count), np.ones(count)
    partners[:real] = rng.permutation(real)
    # Both are drawn whether they are used or not: what one picture gets does not hang on the coins of the others.
    mixed, cut = (rng.beta(alpha or 1.0, alpha or 1.0, real) for alpha in (mixup, cutmix))
    coins, centres = rng.random(real) < 0.5, rng.random((real, 2))
    is_cut = np.full(real, cutmix is not None) if mixup is None or cutmix is None else coins
    boxes = np.zeros((count, 4), dtype=np.int64)
    boxes[:real][is_cut] = _rectangles(cut[is_cut], centres[is_cut], size)
    areas = (boxes[:real, 2] - boxes[:real, 0]) * (boxes[:real, 3] - boxes[:real, 1])
    shares[:real] = np.where(is_cut, 1 - areas / (size[0] * size[1]), mixed)
    return Mix(partners, shares.astype(np.float32), boxes)


def mix_pictures(batch: NDArray[np.uint8], mix: Mix) -> None:
    """Mix `batch`, uint8 of shape (batch, height, width, 3), in place."""
    before = batch.copy()
    for number, (partner, share, box) in enumerate(zip(mix.partners, mix.shares, mix.boxes, strict=True)):
        top, left, bottom, right = box
        if bottom > top and right > left:
            batch[number, top:bottom, left:right] = before[partner, top:bottom, left:right]
        elif share < 1 and partner != number:
            own = float(share)
            cv2.addWeighted(before[number], own, before[partner], 1 - own, 0.0, dst=batch[number])


def mix_targets(targets: NDArray[np.float32], mix: Mix) -> NDArray[np.float32]:
    """share × target + (1 − share) × partner's: float32 of shape (batch, classes), as `targets`."""
    shares = mix.shares[:, None]
    mixed: NDArray[np.float32] = shares * targets + (1 - shares) * targets[mix.partners]
    return mixed


def _rectangles(shares: NDArray[np.float64], centres: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Of area 1 − share where they lie wholly inside, cut off at the picture's edge."""
    sides = np.sqrt(1 - shares)[:, None] * np.array(size)
    middle = centres * np.array(size)
    first = np.clip(np.round(middle - sides / 2), 0, size).astype(np.int64)
    last = np.clip(np.round(middle + sides / 2), 0, size).astype(np.int64)
    return np.concatenate([first, last], axis=1)
