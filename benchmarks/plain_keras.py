"""The rival of `end_to_end.py` and `head_stage.py`: what a competitor writes with Keras alone, without the kit.

    python benchmarks/plain_keras.py rows.csv recipe.json result.json [--no-cache]

`rows.csv` has the columns path, label and fold, the last two empty for pictures to predict. Of the recipe it reads the
stages' settings. Fold by fold and stage by stage it does what Keras' guides show: pictures as
`image_dataset_from_directory` reads them (which itself cannot make folds), augmentation layers in a parallel `map`,
`prefetch`, BatchNorm in inference mode, `compile` and `fit` with `ModelCheckpoint`, then predictions of plain and
mirrored pictures. The decoded pictures of a size are kept in memory for all folds and stages, unless `--no-cache`: then
every epoch reads the files.
"""

import argparse
import json
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray

# As strong as the kit's presets of these names, as far as these layers go.
STRENGTH = {
    "none": None,
    "light": {"turn": 8 / 360, "shift": 0.06, "zoom": 0.1, "light": 0.2},
    "medium": {"turn": 12 / 360, "shift": 0.08, "zoom": 0.2, "light": 0.25},
}


def load(path: Any, size: tuple[int, int]) -> Any:
    """As `image_dataset_from_directory` reads a picture, but for its dtype, here uint8."""
    picture = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
    picture = tf.cast(tf.round(tf.image.resize(picture, size)), tf.uint8)
    return tf.ensure_shape(picture, (*size, 3))


@cache
def decoded(paths: tuple[str, ...], size: tuple[int, int]) -> NDArray[np.uint8]:
    """All pictures in memory: (pictures, height, width, 3)."""
    files = tf.data.Dataset.from_tensor_slices(list(paths))
    return np.stack(list(files.map(lambda path: load(path, size), tf.data.AUTOTUNE).as_numpy_iterator()))


def augmentation(name: str) -> Any:
    strength = STRENGTH[name]
    if strength is None:
        return None
    return keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(strength["turn"]),
            keras.layers.RandomTranslation(strength["shift"], strength["shift"]),
            keras.layers.RandomZoom(strength["zoom"]),
            keras.layers.RandomBrightness(strength["light"]),
            keras.layers.RandomContrast(strength["light"]),
        ]
    )


@dataclass(frozen=True)
class Data:
    """Pictures and their one-hot labels (zeros where they are not known), as datasets."""

    paths: NDArray[np.object_]
    labels: NDArray[np.float32]
    in_memory: bool

    def dataset(self, rows: NDArray[np.int64], size: tuple[int, int], batch: int, augment: str | None = None) -> Any:
        """(pictures, one-hot labels); shuffled and augmented where `augment` names how."""
        source = decoded(tuple(self.paths), size)[rows] if self.in_memory else self.paths[rows]
        data = tf.data.Dataset.from_tensor_slices((source, self.labels[rows]))
        if augment is not None:
            data = data.shuffle(len(rows))
        if not self.in_memory:
            data = data.map(lambda path, label: (load(path, size), label), tf.data.AUTOTUNE)
        data = data.batch(batch)
        layers = augmentation(augment or "none")
        if layers is not None:
            data = data.map(lambda pictures, label: (layers(pictures, training=True), label), tf.data.AUTOTUNE)
        return data.prefetch(tf.data.AUTOTUNE)


def build(classes: int, dropout: float) -> tuple[Any, Any]:
    """The network, and its backbone."""
    backbone = keras.applications.MobileNet(alpha=0.75, include_top=False, input_shape=(None, None, 3))
    pictures = keras.Input((None, None, 3))
    features = backbone(keras.layers.Rescaling(1 / 127.5, -1)(pictures), training=False)
    features = keras.layers.Dropout(dropout)(keras.layers.GlobalAveragePooling2D()(features))
    return keras.Model(pictures, keras.layers.Dense(classes)(features)), backbone


def unfreeze(backbone: Any, share: float) -> None:
    """The last layers, but for BatchNorm."""
    first = round(len(backbone.layers) * (1 - share))
    for number, layer in enumerate(backbone.layers):
        layer.trainable = number >= first and not isinstance(layer, keras.layers.BatchNormalization)


def optimizer(stage: dict[str, Any], steps: int) -> Any:
    """Adam or AdamW, at a constant rate or along a cosine after a warm-up."""
    peak, schedule, settings = stage["learning_rate"], stage["schedule"], stage["optimizer"]
    rate: Any = peak
    if schedule["kind"] == "cosine":
        warmup = round(schedule["warmup_epochs"] * steps)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else peak, stage["epochs"] * steps - warmup, warmup_target=peak, warmup_steps=warmup
        )
    if settings["kind"] == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=settings["weight_decay"], global_clipnorm=stage["clip_norm"])
    return keras.optimizers.Adam(rate, global_clipnorm=stage["clip_norm"])


def train(data: Data, network: Any, stage: dict[str, Any], rows: tuple[Any, Any], smoothing: float) -> None:
    """One stage on `rows`, to train on and held out; ends on the weights of the lowest validation loss."""
    trained, held_out = rows
    size, batch = tuple(stage["size"]), stage["batch_size"]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    network.compile(optimizer(stage, -(-len(trained) // batch)), loss, metrics=["accuracy"])
    with TemporaryDirectory() as folder:
        best = f"{folder}/best.weights.h5"
        network.fit(
            data.dataset(trained, size, batch, stage["augment"]),
            validation_data=data.dataset(held_out, size, batch),
            epochs=stage["epochs"],
            callbacks=[
                keras.callbacks.ModelCheckpoint(best, monitor="val_loss", save_best_only=True, save_weights_only=True),
                keras.callbacks.CSVLogger(f"{folder}/log.csv"),
            ],
            verbose=2,
        )
        network.load_weights(best)


def predict(data: Data, network: Any, rows: Any, stage: dict[str, Any], *, flip: bool) -> NDArray[np.float32]:
    """Probabilities (rows, classes), the mean of both views where `flip`."""
    plain = data.dataset(rows, tuple(stage["size"]), stage["batch_size"]).map(lambda pictures, label: pictures)
    views = [plain, plain.map(lambda pictures: pictures[:, :, ::-1], tf.data.AUTOTUNE)] if flip else [plain]
    found = [np.asarray(keras.ops.softmax(network.predict(view, verbose=0)), np.float32) for view in views]
    mean: NDArray[np.float32] = np.mean(np.stack(found), axis=0, dtype=np.float32)
    return mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--no-cache", action="store_true")
    given = parser.parse_args()
    table, recipe = pd.read_csv(given.rows, dtype={"label": str}), json.loads(given.recipe.read_text("utf-8"))
    known, asked = table[table["label"].notna()], table[table["label"].isna()]
    numbers, classes = pd.factorize(known["label"], sort=True)
    in_memory, last, flip = not given.no_cache, recipe["stages"][-1], "flip" in recipe["tta"]["views"]
    data = Data(known["path"].to_numpy(), np.eye(len(classes), dtype=np.float32)[numbers], in_memory)
    test = Data(asked["path"].to_numpy(), np.zeros((len(asked), len(classes)), np.float32), in_memory)
    fold, right, found = known["fold"].to_numpy().astype(int), [], []
    seconds = dict.fromkeys((stage["name"] for stage in recipe["stages"]), 0.0)
    for number in sorted(set(fold) - {-1}):  # -1: never held out
        keras.backend.clear_session()
        keras.utils.set_random_seed(int(number))
        network, backbone = build(len(classes), recipe["head"]["dropout"])
        trained, held_out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        for stage in recipe["stages"]:
            started = time.perf_counter()
            unfreeze(backbone, stage["unfreeze"])
            train(data, network, stage, (trained, held_out), recipe["label_smoothing"])
            seconds[stage["name"]] += time.perf_counter() - started
        right.append(predict(data, network, held_out, last, flip=flip).argmax(axis=1) == numbers[held_out])
        if len(asked):
            found.append(predict(test, network, np.arange(len(asked)), last, flip=flip))
    if found:
        chosen = np.mean(found, axis=0).argmax(axis=1)
        submission = pd.DataFrame({"path": asked["path"], "label": [classes[number] for number in chosen]})
        submission.to_csv(given.result.with_name("submission.csv"), index=False)
    rows = np.concatenate(right)
    score = float(rows.mean())
    result = {"score": score, "error": (score * (1 - score) / len(rows)) ** 0.5, "seconds": seconds}
    given.result.write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main()
