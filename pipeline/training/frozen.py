"""Features of a frozen backbone: what it makes of a picture depends on neither fold nor epoch, so it is made once.

Kept beside the decoded pictures, a file a view, in float16, and named by what they are made from (the pictures, the
view, the backbone and its very weights): all folds, epochs and experiments share them.
"""

import hashlib
import importlib.metadata
import itertools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.augment import Augmenter, picture_seeds, transforms_of
from pipeline.data.inputs import prediction_blocks
from pipeline.data.kept import Room, keep
from pipeline.data.pictures import (
    ChosenPictures,
    FilePictures,
    JoinedPictures,
    KeptPictures,
    Pictures,
    Rows,
    content_name,
)
from pipeline.data.workers import Task, WorkerPool
from pipeline.model.backbones import BACKBONES
from pipeline.model.classifier import split_classifier
from pipeline.model.merged import merge_batch_norm
from pipeline.predictions.tta import PLAIN, view
from pipeline.progress import Progress
from pipeline.recipe import Augment, LogisticRegression, Stage
from pipeline.training.device import device, distribution, divisible, for_prediction, onednn

log = logging.getLogger(__name__)
_BATCH = 32


_POLICY = 1  # to be raised when a view of TTA, or how augmentation is seeded, changes


class _Overflow(Exception):
    """A feature is larger than float16 can hold, or no number."""


@dataclass(frozen=True)
class View:
    """A picture as a frozen backbone sees it: plain or a view of TTA, or augmented for the `number`th time."""

    name: str = PLAIN
    augment: Augment = ()
    number: int = 0

    @property
    def key(self) -> str:
        library = importlib.metadata.version("albumentations") if self.augment else ""
        return json.dumps([_POLICY, self.name, transforms_of(self.augment), self.number, library])

    def batches(self, pictures: Pictures, pool: WorkerPool, size: int) -> Iterator[NDArray[np.uint8]]:
        """All pictures in this view, in batches of `size`; the last is filled up.

        How a picture is augmented is a function of its row and the view's number.
        """
        rows = np.arange(len(pictures))
        if not self.augment:
            blocks = prediction_blocks(pictures, rows, batch_size=size, views=[view(self.name)])
            return (batch for block in blocks for batch, _ in block)
        parts = (np.resize(part, size) for part in np.split(rows, range(size, len(rows), size)))
        return pool.batches(pictures, self.augment, (Task(part, self._seeds(part)) for part in parts), batch_size=size)

    def _seeds(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        return picture_seeds(map(str, rows), seed=0, fold=0, stage=0, epoch=self.number)


def kept_views(stage: Stage) -> list[View] | None:
    """The views of each picture that a stage trains on, the plain one first; None where every batch goes through the
    backbone: it is trained, or pictures are mixed, or the stage wants a new view in every epoch."""
    if stage.unfreeze or stage.mixup or stage.cutmix or stage.feature_views == "every":
        return None
    at_most = stage.feature_views if isinstance(stage.optimizer, LogisticRegression) else stage.epochs
    augmented = min(stage.feature_views, at_most) if Augmenter(stage.augment).transforms else 0
    return [View(), *(View(augment=stage.augment, number=number) for number in range(augmented))]


def freeze(classifier: Any, *, backbone: str, room: Room, pool: WorkerPool) -> "tuple[FrozenBackbone, Any]":
    """A classifier in two, as `split_classifier` has it: what is not trained, and the head from features on."""
    import keras

    with distribution():
        fixed, head = split_classifier(classifier)
        merged, _ = merge_batch_norm(classifier)
        pictures = keras.Input(classifier.input_shape[1:])
        features = merged.get_layer("backbone")(pictures)
        if fixed.layers[-1].name == "pooling":
            features = fixed.layers[-1](features)
        same = keras.Model(pictures, features)
    return FrozenBackbone(fixed, backbone=backbone, room=room, pool=pool, faster=same), head


class FrozenBackbone:
    """A network that is not trained, to be run once over pictures."""

    def __init__(self, network: Any, *, backbone: str, room: Room, pool: WorkerPool, faster: Any = None) -> None:
        """
        Args:
            network: From pictures to features; its weights must not change any more.
            backbone: Its name.
            room: Where features are kept.
            pool: Augments.
            faster: The same function in fewer operations, which is run in its place.
        """
        import keras

        self._network, self._room, self._pool = faster or network, room, pool
        made_by = [
            *(backbone, BACKBONES[backbone].preprocessing, type(network.layers[-1]).__name__, network.output.dtype),
            *(keras.backend.backend(), importlib.metadata.version("keras"), device(), onednn()),
        ]
        digest = hashlib.sha256(repr(made_by).encode())
        for weight in network.get_weights():
            digest.update(np.ascontiguousarray(weight).data)
        self._key = digest.hexdigest()

    def all_features(self, pictures: Pictures, views: Sequence[View]) -> list[Rows] | None:
        """`features` in each view; None where there is no room for one, or where one leaves float16's range."""
        found: list[Rows] = []
        for seen in views:
            try:
                features = self.features(pictures, seen)
                why = "there is no room to keep the backbone's features"
            except _Overflow:
                features, why = None, "the backbone's features are larger than float16 holds, or not finite"
            if features is None:
                log.warning("%s: every batch goes through the backbone, which is slower", why)
                return None
            found.append(features)
        return found

    def features(self, pictures: Pictures, seen: View) -> Rows | None:
        """What the network makes of all pictures in this view, float16 of shape (pictures, …); None without room."""
        if isinstance(pictures, JoinedPictures):
            first, second = (self.features(part, seen) for part in (pictures.first, pictures.second))
            return JoinedPictures(first, second) if first and second else None
        if isinstance(pictures, ChosenPictures):
            chosen = self.features(pictures.pictures, seen)
            return ChosenPictures(chosen, pictures.rows) if chosen else None
        if not isinstance(pictures, KeptPictures | FilePictures):
            raise TypeError(f"features are kept of pictures in files; received {type(pictures).__name__}")
        name = hashlib.sha256(f"{self._key} {content_name(pictures)} {seen.key}".encode()).hexdigest()[:24]
        return keep(
            f"features-{name}",
            self._room,
            shape=self.shape(pictures),
            dtype=np.float16,
            fill=lambda array: self.fill(array, pictures, seen),
        )

    def shape(self, pictures: Pictures) -> tuple[int, ...]:
        """Of all their features."""
        shape: tuple[int, ...] = self._network.compute_output_shape((len(pictures), *pictures.size, 3))
        return shape

    def rate(self, pictures: Pictures, seen: View, *, seconds: float = 4.0) -> float:
        """About how many pictures a second go through it, by some batches after the first, in which it is compiled."""
        size = divisible(_BATCH)
        done, started = -1, 0.0
        endless = itertools.chain.from_iterable(seen.batches(pictures, self._pool, size) for _ in itertools.count())
        for batch in endless:
            self._network.predict_on_batch(for_prediction(batch))
            done += 1
            now = time.perf_counter()
            started = started or now
            if done and now - started > seconds:
                break
        return done * size / (time.perf_counter() - started)

    def fill(self, array: NDArray[Any], pictures: Pictures, seen: View) -> None:
        """Write what the network makes of all pictures in this view."""
        size = divisible(_BATCH)
        batches = seen.batches(pictures, self._pool, size)
        label = f"features {seen.number}" if seen.augment else f"features {seen.name}"
        with Progress(total=len(array), desc=label, unit="picture", leave=False, disable=None) as bar:
            for start, batch in zip(range(0, len(array), size), batches, strict=True):
                self._room.check()
                part = array[start : start + size]
                with np.errstate(over="ignore"):  # an overflow is an infinity, which is looked for
                    part[:] = self._network.predict_on_batch(for_prediction(batch))[: len(part)]
                if not np.isfinite(part).all():
                    raise _Overflow
                bar.update(len(part))
