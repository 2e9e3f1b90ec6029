"""Augmentation: named presets and a recipe's own lists, as albumentations transforms.

The only file that knows albumentations, which is no longer maintained. A picture's augmentation is a function
of its seed alone: not of the batch, the worker or the pictures before it.
"""

import hashlib
import os
import random
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RecipeError
from pipeline.recipe import Augment

_FLIP = {"HorizontalFlip": {"p": 0.5}}
PRESETS: dict[str, list[dict[str, dict[str, Any]]]] = {
    "none": [],
    "light": [
        _FLIP,
        {
            "Affine": {
                "translate_percent": [-0.06, 0.06],
                "scale": [0.9, 1.1],
                "rotate": [-8, 8],
                "border_mode": cv2.BORDER_REFLECT_101,
                "p": 0.7,
            }
        },
        {"RandomBrightnessContrast": {"brightness_limit": 0.2, "contrast_limit": 0.2, "p": 0.5}},
    ],
    "medium": [
        _FLIP,
        {
            "Affine": {
                "translate_percent": [-0.08, 0.08],
                "scale": [0.8, 1.2],
                "rotate": [-12, 12],
                "shear": [-6, 6],
                "border_mode": cv2.BORDER_REFLECT_101,
                "p": 0.8,
            }
        },
        {"RandomBrightnessContrast": {"brightness_limit": 0.25, "contrast_limit": 0.25, "p": 0.6}},
        {
            "HueSaturationValue": {
                "hue_shift_limit": 10,
                "sat_shift_limit": 25,
                "val_shift_limit": 10,
                "p": 0.4,
            }
        },
        {"GaussianBlur": {"blur_limit": [3, 5], "p": 0.1}},
    ],
    "heavy": [
        _FLIP,
        {
            "Affine": {
                "translate_percent": [-0.12, 0.12],
                "scale": [0.7, 1.3],
                "rotate": [-20, 20],
                "shear": [-10, 10],
                "border_mode": cv2.BORDER_REFLECT_101,
                "p": 0.9,
            }
        },
        {"Perspective": {"scale": [0.02, 0.08], "border_mode": cv2.BORDER_REFLECT_101, "p": 0.3}},
        {"RandomBrightnessContrast": {"brightness_limit": 0.35, "contrast_limit": 0.35, "p": 0.7}},
        {
            "HueSaturationValue": {
                "hue_shift_limit": 20,
                "sat_shift_limit": 40,
                "val_shift_limit": 20,
                "p": 0.6,
            }
        },
        {"ToGray": {"p": 0.1}},
        {"GaussianBlur": {"blur_limit": [3, 7], "p": 0.15}},
        {
            "CoarseDropout": {
                "num_holes_range": [1, 4],
                "hole_height_range": [0.08, 0.2],
                "hole_width_range": [0.08, 0.2],
                "p": 0.4,
            }
        },
    ],
}


def picture_seeds(ids: Iterable[str], *, seed: int, fold: int, stage: int, epoch: int) -> NDArray[np.uint32]:
    """One seed an id, from (seed, fold, stage, epoch, id) alone. Returns shape (len(ids),)."""
    start = f"{seed}/{fold}/{stage}/{epoch}/"
    digests = (hashlib.blake2b((start + key).encode(), digest_size=4).digest() for key in ids)
    return np.frombuffer(b"".join(digests), dtype="<u4").astype(np.uint32)


class Augmenter:
    """Augments pictures one by one, each from its own seed. Not to be shared by threads.

    Args:
        augment: A preset's name or a list of transforms, as in a recipe.

    Raises:
        RecipeError: There is no such preset or transform, or the transform does not take these settings.
    """

    def __init__(self, augment: Augment) -> None:
        self.transforms = [_build(name, options) for name, options in transforms_of(augment)]
        # All transforms draw from these two, which are seeded anew for each picture. `set_random_seed` would make two
        # for each transform: slower than a small transform, and all of one seed, so that transforms of one probability
        # always come together.
        self._random, self._generator = random.Random(), np.random.Generator(np.random.PCG64(0))
        self._state: Any = self._generator.bit_generator.state
        for transform in self.transforms:
            transform.set_random_state(self._generator, self._random)

    def __call__(self, pictures: NDArray[np.uint8], seeds: Sequence[int] | NDArray[np.uint32]) -> None:
        """Augment `pictures`, uint8 of shape (n, height, width, 3), in place.

        Raises:
            RecipeError: A transform failed, or changed the picture's size or type.
        """
        for picture, seed in zip(pictures, seeds, strict=True):
            picture[...] = self.one(picture, int(seed))

    def one(self, picture: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """A picture, uint8 of shape (height, width, 3), augmented; it may be written over, or be what is returned.

        Raises:
            RecipeError: As of a call.
        """
        self._random.seed(seed)
        self._state["state"]["state"] = self._random.getrandbits(128)
        self._generator.bit_generator.state = self._state
        result = picture
        try:
            # One after the other, as `Compose` calls them, without what it checks for boxes, masks and volumes.
            for transform in self.transforms:
                result = transform(image=result)["image"]
        except Exception as error:  # albumentations has kinds of its own for each transform
            raise RecipeError(
                f"augmentation cannot take a picture of {picture.shape}: {error}",
                expected="transforms that take any picture of the stage's size",
                next_step="correct `augment` in the recipe",
            ) from None
        if result.shape != picture.shape or result.dtype != np.uint8:
            raise RecipeError(
                f"augmentation turned a picture of {picture.shape} uint8 into {result.shape} {result.dtype}",
                expected="transforms that keep size and type: the stage's size is set by `size`",
                next_step="remove the transform that resizes, crops or normalises",
            )
        return result


def check_augment(augment: Augment) -> None:
    """Raise `RecipeError` unless `augment` can be built."""
    if isinstance(augment, str):
        transforms_of(augment)  # a preset that there is can be built, and albumentations takes a second to import
    else:
        Augmenter(augment)


def transforms_of(augment: Augment) -> list[tuple[str, dict[str, Any]]]:
    """Names and settings of the transforms that a preset's name, or a recipe's own list, stands for.

    Raises:
        RecipeError: There is no such preset.
    """
    if isinstance(augment, str):
        if augment not in PRESETS:
            raise RecipeError(
                f"there is no augmentation preset {augment!r}",
                expected="one of " + ", ".join(PRESETS) + ", or a list of albumentations transforms",
                next_step="correct `augment` in the recipe",
            )
        entries: Sequence[dict[str, dict[str, Any]]] = PRESETS[augment]
    else:
        entries = augment
    return [(name, options) for entry in entries for name, options in entry.items()]


def _build(name: str, options: dict[str, Any]) -> Any:
    library = _library()
    kind = getattr(library, name, None)
    if not (isinstance(kind, type) and issubclass(kind, library.BasicTransform)):
        raise RecipeError(
            f"albumentations has no transform {name!r}",
            expected="a transform's class name, such as HorizontalFlip",
            next_step="see the list at https://albumentations.ai/docs/",
        )
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    try:
        with warnings.catch_warnings():
            # albumentations only warns of a setting that it does not know, and goes on without it.
            warnings.simplefilter("error")
            return kind(**given)
    except (TypeError, ValueError, Warning) as error:
        raise RecipeError(
            f"albumentations refuses {name} with {options}: {error}",
            expected=f"the settings of albumentations.{name}",
            next_step="correct `augment` in the recipe",
        ) from None


def _library() -> Any:
    # It would ask the network for its newest version on import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations
