"""Fold models, or their average, as files that others can run: `.keras` and ONNX, checked on real pictures.

<folder>/README.md              the model card
<folder>/predict.py             predicts a picture without the kit
<folder>/model.json             classes, files, their sizes and what the check found, for programs
<folder>/fold-<n>.keras|.onnx   a model a fold; or average.keras and average.onnx

The folder is written whole or not at all. Every file is loaded again and held against the network it was made of.
"""

import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import Workspace, atomic_folder, read_json, require_writable, write_json, write_text
from pipeline.data.competition_data import CompetitionData, load_data
from pipeline.data.pictures import FilePictures
from pipeline.errors import DataError, KitError
from pipeline.model.portable import portable_classifier
from pipeline.predictions.calibration import OofTemperature, oof_temperature
from pipeline.predictions.store import probabilities_of, read_predictions
from pipeline.progress import Progress
from pipeline.training.averaged import (
    AverageCheck,
    average_network,
    check_average,
    require_average_holds,
    require_one_size,
)
from pipeline.training.model_card import SCRIPT, model_card, script
from pipeline.training.network import load_network
from pipeline.training.onnx_file import require_memory, run_onnx, write_onnx
from pipeline.training.predict import FoldModels, read_fold_models
from pipeline.training.validation import probabilities_of_logits

DESCRIPTION = "model.json"
CARD = "README.md"
TOLERANCE = 1e-4  # of a probability
# By the precision that the stored predictions were made in. GPUs round float32 in convolutions, too.
OOF_TOLERANCE = {"float32": 2e-2, "mixed_float16": 0.1, "mixed_bfloat16": 0.1}
_CHECKED = 16  # pictures: one batch, in a second or two even for large networks
_ONNX_PACKAGES = ("tf2onnx", "onnx", "onnxruntime")


class ModelFormat(StrEnum):
    """A kind of model file; the value is its suffix."""

    keras = "keras"
    onnx = "onnx"


@dataclass(frozen=True)
class ExportedFile:
    """A file of an export, and how it was checked.

    Attributes:
        fold: The fold whose model it is; None for the average.
        size: Height and width in pixels of the pictures that it was scored on.
        difference: The largest difference of a probability from the network it was made of.
        oof_difference: Likewise from the stored OOF predictions of the same pictures; None for the average, which
            has none.
    """

    name: str
    fold: int | None
    size: tuple[int, int]
    size_bytes: int
    pictures: int
    difference: float
    oof_difference: float | None
    seconds: float


@dataclass(frozen=True)
class Export:
    """What was written."""

    folder: Path
    files: list[ExportedFile]
    average: AverageCheck | None = None


@dataclass(frozen=True)
class _Checked:
    """A network and the pictures that its files are checked on.

    Attributes:
        pictures: uint8 of shape (n, height, width, 3).
        oof: The stored predictions, float32 of shape (n, classes), where the network made them.
    """

    name: str
    fold: int | None
    network: Any
    pictures: NDArray[np.uint8]
    oof: NDArray[np.float32] | None

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.pictures.shape[1:3]
        return height, width


def export_folds(
    *,
    slug: str,
    experiment: str,
    workspace: Workspace,
    folder: Path | None = None,
    folds: Sequence[int] | None = None,
    formats: Sequence[ModelFormat] = tuple(ModelFormat),
) -> Export:
    """Export fold models of a finished experiment, one or two files a fold.

    Args:
        folder: Where to; `runs/<slug>/<experiment>/export` by default.
        folds: All by default.

    Raises:
        DataError: The experiment is not finished, is a blend, or has no such fold; its weights are gone or its data
            changed; or the folder holds other files.
        KitError: A package for ONNX is missing, or a file does not give what the network gives.
    """
    folder = folder or workspace.run(slug, experiment) / "export"
    models, data = _prepare(workspace, slug, experiment, folder=folder, formats=formats, folds=folds)
    oof = read_predictions(workspace.oof(slug, experiment) / "oof.parquet")

    def networks() -> Iterator[_Checked]:
        for fold, weights in Progress(models.weights.items(), desc="fold models", leave=False, disable=None):
            network = load_network(models.recipe, classes=len(models.stored.classes), weights=weights)
            rows, size = data.rows_of(fold)[:_CHECKED], models.sizes[fold]
            stored = probabilities_of(oof, list(data.train["id"].iloc[rows]), models.stored.classes)
            yield _Checked(f"fold-{fold}", fold, network, _pictures(data, rows, size), stored)

    scored = np.concatenate([data.rows_of(fold) for fold in models.stored.manifest["folds"]])
    before = probabilities_of(oof, list(data.train["id"].iloc[scored]), models.stored.classes)
    temperature = oof_temperature(before, data.labels[scored], data.folds.frame["fold"].to_numpy()[scored])
    return _write(folder, models, networks(), formats=formats, temperature=temperature)


def export_average(
    *,
    slug: str,
    experiment: str,
    workspace: Workspace,
    folder: Path | None = None,
    formats: Sequence[ModelFormat] = tuple(ModelFormat),
) -> Export:
    """Export one model with the mean of the fold models' weights, if averaging does not destroy the network.

    Args:
        folder: Where to; `runs/<slug>/<experiment>/export-average` by default.

    Raises:
        KitError: As `export_folds`; or there is one fold, or the average does not hold.
    """
    folder = folder or workspace.run(slug, experiment) / "export-average"
    models, data = _prepare(workspace, slug, experiment, folder=folder, formats=formats)
    require_one_size(models)
    files = list(models.weights.values())
    network = average_network(models.recipe, files, classes=len(models.stored.classes))
    check = check_average(network, models, data, workspace)
    require_average_holds(check, metric=models.stored.manifest["metric"])
    rows = np.flatnonzero(data.folds.frame["fold"].isin(list(models.weights)).to_numpy())[:_CHECKED]
    made = _Checked("average", None, network, _pictures(data, rows, next(iter(models.sizes.values()))), None)
    return _write(folder, models, iter([made]), formats=formats, average=check)


def _prepare(
    workspace: Workspace,
    slug: str,
    experiment: str,
    *,
    folder: Path,
    formats: Sequence[ModelFormat],
    folds: Sequence[int] | None = None,
) -> tuple[FoldModels, CompetitionData]:
    """Refuse what cannot be exported before the first network is loaded."""
    if ModelFormat.onnx in formats:
        _require_onnx()
    models = read_fold_models(workspace, slug, experiment, folds=folds)
    require_writable(folder)
    _require_own(folder)
    data = load_data(models.competition)
    found = {"data_sha256": data.sha256, "folds_sha256": data.folds.sha256}
    changed = [key for key, value in found.items() if models.stored.manifest[key] != value]
    if changed:
        raise DataError(
            f"the data of {slug} are not those that {experiment} was trained on ({', '.join(changed)} differs)",
            expected="the same pictures, labels and folds, since the exported files are checked on held-out pictures",
            next_step="put the data and folds.csv back, or train the experiment again",
        )
    # Weights are float32 at any precision, and ONNX Runtime has no mixed one: the export computes in float32.
    return replace(models, recipe=models.recipe.model_copy(update={"precision": "float32"})), data


def _require_onnx() -> None:
    import keras

    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise KitError(
            f"ONNX files take packages that are not installed: {', '.join(missing)}",
            expected="the extra `export`",
            next_step="pip install 'kaggle-image-kit[export]'; or leave ONNX out: --format keras",
        )
    if keras.backend.backend() != "tensorflow":
        raise KitError(
            f"ONNX files are made on TensorFlow; Keras runs on {keras.backend.backend()} here",
            expected="KERAS_BACKEND=tensorflow",
            next_step="give the command again with that; or leave ONNX out: --format keras",
        )


def _require_own(folder: Path) -> None:
    """Refuse a folder that holds anything but an earlier export."""
    if not folder.exists():
        return
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    foreign = sorted(present - _earlier(folder))
    if foreign:
        raise DataError(
            f"{folder} holds what is not of an export: {', '.join(foreign[:5])}",
            expected="a new or an empty folder, or one that an earlier export wrote",
            next_step="name another one: --to FOLDER",
        )


def _earlier(folder: Path) -> set[str]:
    """Names of the files that an earlier export wrote; none where `model.json` is not of one."""
    try:
        match read_json(folder / DESCRIPTION):
            case {"fingerprint": str(), "classes": [*_], "files": [*files]}:
                return {DESCRIPTION, CARD, SCRIPT, *(file["name"] for file in files)}
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return set()


def _pictures(data: CompetitionData, rows: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.uint8]:
    return FilePictures(tuple(data.train["path"].iloc[rows]), size).take(np.arange(len(rows)))


def _write(
    folder: Path,
    models: FoldModels,
    networks: Iterator[_Checked],
    *,
    formats: Sequence[ModelFormat],
    average: AverageCheck | None = None,
    temperature: OofTemperature | None = None,
) -> Export:
    import keras

    with atomic_folder(folder) as temporary:
        files: list[ExportedFile] = []
        for checked in networks:
            portable = portable_classifier(checked.network, models.competition.target)
            if ModelFormat.onnx in formats and not files:
                require_memory(portable)
            for format in dict.fromkeys(formats):
                files.append(_export(temporary, portable, checked, format, models))
            keras.backend.clear_session()
        description = {
            **_labels(models),
            "files": [asdict(file) for file in files],
            # The files do not apply it.
            "temperature": temperature.value if temperature and temperature.helps else None,
            "average": None if average is None else asdict(average),
        }
        write_json(temporary / DESCRIPTION, description)
        names = [file.name for file in files]
        write_text(temporary / SCRIPT, script(names))
        write_text(temporary / CARD, model_card(models, files=names, average=average, temperature=temperature))
        _require_own(folder)  # it may have been filled meanwhile
    return Export(folder, files, average)


def _labels(models: FoldModels) -> dict[str, Any]:
    """What a user of a file must know beside its size: also in the ONNX files themselves."""
    manifest = models.stored.manifest
    return {
        "competition": manifest["competition"],
        "experiment": manifest["experiment"],
        "fingerprint": manifest["fingerprint"],
        "classes": models.stored.classes,
    }


def _export(folder: Path, portable: Any, checked: _Checked, format: ModelFormat, models: FoldModels) -> ExportedFile:
    """Write one file, load it again, and hold its probabilities against the network's."""
    started = time.perf_counter()
    file = folder / f"{checked.name}.{format.value}"
    [found] = write_and_run(portable, file, [checked.pictures], labels={**_labels(models), "size": checked.size})
    expected = probabilities_of_logits(_called(checked.network, checked.pictures), models.competition.target)
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:  # nor NaN
        raise KitError(
            f"{file.name} gives other probabilities than the network it was made of: they differ by {difference:.2g}",
            expected=f"at most {TOLERANCE} on {len(checked.pictures)} held-out pictures",
            next_step="nothing was written; please report this with the versions of keras, tensorflow, tf2onnx and "
            "onnxruntime, or leave the format out: --format",
        )
    oof_difference = None if checked.oof is None else float(np.abs(found - checked.oof).max())
    precision = models.stored.manifest["stages"][-1]["precision"][-1]
    if oof_difference is not None and not oof_difference <= OOF_TOLERANCE[precision]:
        raise KitError(
            f"the weights of {checked.name} do not give the stored OOF predictions: {oof_difference:.2g} apart",
            expected=f"the weights that were scored: at most {OOF_TOLERANCE[precision]} for {precision}",
            next_step=f"nothing was written; remove {models.weights[checked.fold or 0].parents[1]}, then give the "
            f"`kit train` command that made {models.stored.name} again",
        )
    return ExportedFile(
        name=file.name,
        fold=checked.fold,
        size=checked.size,
        size_bytes=file.stat().st_size,
        pictures=len(checked.pictures),
        difference=difference,
        oof_difference=oof_difference,
        seconds=round(time.perf_counter() - started, 2),
    )


def write_and_run(
    portable: Any, file: Path, batches: Sequence[NDArray[np.uint8]], *, labels: dict[str, Any]
) -> list[NDArray[np.float32]]:
    """Write a network of `portable_classifier` in the format that the file's suffix names, and predict by the file."""
    import keras

    if file.suffix == f".{ModelFormat.keras.value}":
        portable.save(file)
        model = keras.saving.load_model(file, safe_mode=True, compile=False)
        return [_called(model, pictures) for pictures in batches]
    write_onnx(portable, file, labels)
    return run_onnx(file, batches)


def _called(model: Any, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The model's output; not by its `predict`, which compiles a function for every model."""
    import keras

    return np.asarray(keras.ops.convert_to_numpy(model(pictures, training=False)), dtype=np.float32)
