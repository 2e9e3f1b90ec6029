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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.data.augment import Augmenter, picture_seeds
from pipeline.data.kept import Room, keep
from pipeline.data.pictures import ChosenPictures, FilePictures, JoinedPictures, KeptPictures, Pictures, content_name
from pipeline.data.workers import Task, WorkerPool
from pipeline.model.classifier import split_classifier
from pipeline.model.merged import merge_batch_norm
from pipeline.predictions.tta import PLAIN, view
from pipeline.recipe import Augment, Stage
from pipeline.training.device import distribution, divisible, for_prediction

log = logging.getLogger(__name__)
_BATCH = 32


class _Overflow(Exception):
    """A feature is larger than float16 can hold."""


@dataclass(frozen=True)
class View:
    """A picture as a frozen backbone sees it: plain or a view of TTA, or augmented for the `number`th time."""

    name: str = PLAIN
    augment: Augment = ()
    number: int = 0

    @property
    def key(self) -> str:
        return json.dumps([self.name, self.augment, self.number])

    def batches(self, pictures: Pictures, pool: WorkerPool, size: int) -> Iterator[NDArray[np.uint8]]:
        """All pictures in this view, in batches of `size`; the last is filled up.

        How a picture is augmented is a function of its row and the view's number.
        """
        parts = (np.resize(rows, size) for rows in np.split(np.arange(len(pictures)), range(size, len(pictures), size)))
        if self.augment == ():
            return (view(self.name)(pictures.take(rows)) for rows in parts)
        tasks = (Task(rows, self._seeds(rows)) for rows in parts)
        return pool.batches(pictures, self.augment, tasks, batch_size=size)

    def _seeds(self, rows: NDArray[np.int64]) -> NDArray[np.uint32]:
        return picture_seeds(map(str, rows), seed=0, fold=0, stage=0, epoch=self.number)


def kept_views(stage: Stage) -> list[View] | None:
    """The views of each picture that a stage trains on, the plain one first; None where every batch goes through the
    backbone: it is trained, or pictures are mixed, or the stage wants a new view in every epoch."""
    if stage.unfreeze or stage.mixup or stage.cutmix or stage.feature_views == "every":
        return None
    augmented = min(stage.feature_views, stage.epochs) if Augmenter(stage.augment).transforms else 0
    return [View(), *(View(augment=stage.augment, number=number) for number in range(augmented))]


def freeze(classifier: Any, *, backbone: str, room: Room, pool: WorkerPool) -> "tuple[FrozenBackbone, Any]":
    """A classifier in two, as `split_classifier` has it: what is not trained, and the head from features on."""
    import keras

    fixed, head = split_classifier(classifier)
    with distribution():
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
        digest = hashlib.sha256(
            f"{backbone} {type(network.layers[-1]).__name__} {network.output.dtype} "
            f"{keras.backend.backend()} {importlib.metadata.version('keras')}".encode()
        )
        for weight in network.get_weights():
            digest.update(np.ascontiguousarray(weight).data)
        self._key = digest.hexdigest()

    def features(self, pictures: Pictures, seen: View) -> NDArray[np.float16] | None:
        """What the network makes of all pictures in this view: shape (pictures, …).

        Returns:
            None where there is no room for it, or where it leaves float16's range.
        """
        if isinstance(pictures, JoinedPictures):
            parts = [self.features(part, seen) for part in (pictures.first, pictures.second)]
            whole = [part for part in parts if part is not None]
            return np.concatenate(whole) if len(whole) == len(parts) else None
        if isinstance(pictures, ChosenPictures):
            found = self.features(pictures.pictures, seen)
            return None if found is None else found[pictures.rows]
        if not isinstance(pictures, KeptPictures | FilePictures):
            raise TypeError(f"features are kept of pictures in files; received {type(pictures).__name__}")
        name = hashlib.sha256(f"{self._key} {content_name(pictures)} {seen.key}".encode()).hexdigest()[:24]
        shape = self.shape(pictures)
        why = "there is no room to keep the backbone's features"
        try:
            kept = keep(
                f"features-{name}",
                self._room,
                shape=shape,
                dtype=np.float16,
                fill=lambda array: self.fill(array, pictures, seen),
            )
        except _Overflow:
            kept, why = None, "the backbone's features are larger than float16 holds"
        if kept is None:
            log.warning("%s: every batch goes through the backbone, which is slower", why)
            return None
        return kept.array

    def shape(self, pictures: Pictures) -> tuple[int, ...]:
        """Of all their features."""
        shape: tuple[int, ...] = self._network.compute_output_shape((len(pictures), *pictures.size, 3))
        return shape

    def rate(self, pictures: Pictures, seen: View, *, seconds: float = 4.0) -> float:
        """About how many pictures a second go through it, by some batches after the first, in which it is compiled."""
        size = divisible(_BATCH)
        done, started = -1, 0.0
        for batch in itertools.cycle(itertools.islice(seen.batches(pictures, self._pool, size), 64)):
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
        with tqdm(total=len(array), desc=label, unit="picture", leave=False, disable=None) as bar:
            for start, batch in zip(range(0, len(array), size), batches, strict=True):
                self._room.check()
                part = array[start : start + size]
                with np.errstate(over="ignore"):  # an overflow is an infinity, which is looked for
                    part[:] = self._network.predict_on_batch(for_prediction(batch))[: len(part)]
                if not np.isfinite(part).all():
                    raise _Overflow
                bar.update(len(part))
