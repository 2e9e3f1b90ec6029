"""What training will cost on this machine, found by trying: some batches of every stage, nothing of them kept.

The batches come from the real input at the real size, in a fresh process. Decoded pictures stay in
`runs/<slug>/_decoded`, as training would leave them there, and in `_parts` what `accumulate: auto` came to; nothing
else is written.
"""

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipeline.artifacts import Workspace
from pipeline.competition import Competition
from pipeline.data.competition_data import CompetitionData, load_data
from pipeline.data.inputs import TrainingInput
from pipeline.data.pictures import MemoryRows, are_kept, decoding_seconds
from pipeline.data.workers import WorkerPool
from pipeline.model.cost import network_cost
from pipeline.predictions.probe import STRENGTHS, fit_head
from pipeline.progress import Progress
from pipeline.recipe import LogisticRegression, Recipe, Stage
from pipeline.session import training_seconds
from pipeline.training.cross_validate import check_recipe, folds_of
from pipeline.training.device import peak_device_memory
from pipeline.training.engines import fresh_process
from pipeline.training.fold import FoldTask, Machine, stage_rows
from pipeline.training.frozen import freeze, kept_views
from pipeline.training.memory import peak_memory, reset_peak_memory
from pipeline.training.network import compile_for, stage_network
from pipeline.training.parts import with_parts
from pipeline.training.rates import input_rate, prediction_rate, save_seconds, training_rate

_STEPS = ("decode", "input", "train", "predict")


@dataclass(frozen=True)
class StageProbe:
    """What was found of a stage. Rates are pictures a second, in full batches.

    Attributes:
        size: Height and width in pixels.
        flops: Of a picture's forward pass (`model/cost.py`).
        trained, watched, held_out: Rows to train on, predicted after every epoch, and predicted at the stage's end
            where they are others.
        decode_seconds: Near zero where the pictures were there already.
        feature_seconds: What a frozen backbone takes to see all pictures in all views, once for all folds; the rates
            are of its features then.
        feature_rate: Pictures a second through that backbone; None where it is trained.
        input_rate: Of the input alone.
        train_rate: Of training, input included.
        predict_rate: Of prediction, input included, and what each prediction takes to begin: lower where rows are few.
        setup_seconds: Building the network, and its first training batch, in which it is compiled.
        predict_setup_seconds: The first prediction, likewise.
        save_seconds: Writing the weights.
        peak_bytes: Of the process and its workers together, while this stage was tried.
        device_bytes: Of one GPU; None without.
        kept: Whether its decoded pictures are there when all stages have been tried; otherwise there was no room.
    """

    name: str
    size: tuple[int, int]
    blocks: int
    unfrozen: int
    parameters: int
    trainable_parameters: int
    flops: int
    trained: int
    watched: int
    held_out: int
    decode_seconds: float
    feature_seconds: float
    feature_rate: float | None
    input_rate: float
    train_rate: float
    predict_rate: float
    setup_seconds: float
    predict_setup_seconds: float
    save_seconds: float
    peak_bytes: int
    device_bytes: int | None
    kept: bool = True

    @property
    def bottleneck(self) -> str:
        """What a faster one of would help: `input` where training hardly lags behind it, `network` where it takes half
        as long again and more, else `both`.
        """
        share = self.train_rate / self.input_rate
        return "input" if share >= 0.8 else "both" if share > 0.5 else "network"

    def epoch_seconds(self, batch_size: int) -> float:
        """An epoch: training in whole batches, predicting the watched rows, writing the weights."""
        pictures = math.ceil(self.trained / batch_size) * batch_size
        return pictures / self.train_rate + self.watched / self.predict_rate + self.save_seconds

    def stage_seconds(self, stage: Stage) -> float:
        """All epochs, without early stopping. Decoding is in it where its pictures are not kept for the next fold."""
        setup = self.setup_seconds + self.predict_setup_seconds + (0.0 if self.kept else self.decode_seconds)
        return setup + stage.epochs * self.epoch_seconds(stage.batch_size) + self.held_out / self.predict_rate


@dataclass(frozen=True)
class ProbeTask:
    """The arguments of `probe`; `started` is the Unix time in seconds at which its process was asked for."""

    task: FoldTask
    started: float


@dataclass(frozen=True)
class Tried:
    """What was found in trying a recipe: the arguments of `reckon`."""

    probes: Sequence[StageProbe]
    folds: int
    start_seconds: float
    held_out: int
    test: int
    test_decode_seconds: float


def plan_training(recipe: Recipe, competition: Competition, *, session_hours: float, **where: Any) -> dict[str, Any]:
    """Try every stage on the first fold, and reckon about what all folds take, without early stopping.

    What is finished already is not taken off.

    Args:
        session_hours: How long a session lasts.
        where: As of `try_out`.

    Returns:
        As `reckon`.
    """
    return reckon(recipe, **vars(try_out(recipe, competition, **where)), session_hours=session_hours)


def try_out(
    recipe: Recipe,
    competition: Competition,
    *,
    experiment: str,
    workspace: Workspace,
    folds: Sequence[int] | None = None,
    machine: Machine | None = None,
    run: Callable[..., Any] = fresh_process,
) -> Tried:
    """Try every stage on the first fold.

    Args:
        folds: The folds to be trained; all by default.
        run: Calls `probe`, and what `with_parts` tries, by default in a process of its own.

    Raises:
        OutOfTime: The machine's time was over before all stages were tried.
        KitError: As `cross_validate` does.
    """
    data = load_data(competition, extra=recipe.extra)
    check_recipe(recipe, data)
    numbers = folds_of(data, competition.slug, folds)
    fitting = with_parts(recipe, data, folder=workspace.parts(competition.slug), run=run)
    task = FoldTask(
        *(fitting, competition, numbers[0], workspace, experiment, machine or Machine()),
        *(data.sha256, data.extra.sha256),
    )
    start, probes, test_seconds = run(probe, ProbeTask(task, time.time()), what="the plan")
    return Tried(probes, len(numbers), start, len(data.rows_of(numbers[0])), len(data.test), test_seconds)


def reckon(
    recipe: Recipe,
    probes: Sequence[StageProbe],
    *,
    folds: int,
    start_seconds: float,
    held_out: int,
    test: int,
    test_decode_seconds: float,
    session_hours: float,
) -> dict[str, Any]:
    """Add up what was found.

    Args:
        start_seconds: Until a fold's process has its data.
        held_out: Rows of a fold.
        test: Test pictures.
        test_decode_seconds: Of all test pictures.

    Returns:
        `stages` (the fields of `StageProbe` and `bottleneck`, `epochs`, `epoch_seconds`, `seconds`), `folds`,
        `start_seconds` and `final_seconds` (predictions at the end, by the last stage) of a fold, `fold_seconds`,
        `decode_seconds` (once for all folds: of the sizes that are kept, of the test pictures, and the features of
        frozen backbones), `total_seconds`, `session_hours`, `session_share` (how much of it is for training),
        `folds_a_session`, `stages_a_session` (of one fold), and `early_stopping`, whether a stage may end sooner.
    """
    stages = [
        {
            **asdict(found),
            "bottleneck": found.bottleneck,
            "epochs": stage.epochs,
            "epoch_seconds": found.epoch_seconds(stage.batch_size),
            "seconds": found.stage_seconds(stage),
        }
        for stage, found in zip(recipe.stages, probes, strict=True)
    ]
    last = probes[-1]
    decode = sum(found.decode_seconds for found in probes if found.kept) + test_decode_seconds
    decode += sum(found.feature_seconds for found in probes)
    predicted = (held_out + test) * (1 + len(recipe.tta.views))
    final = last.predict_setup_seconds + predicted / (last.feature_rate or last.predict_rate)
    if last.feature_rate and not any(stage.unfreeze for stage in recipe.stages):  # then all folds share all features
        views = len(recipe.tta.views)
        decode += ((last.trained + held_out) * views + test * (1 + views)) / last.feature_rate
        final = last.predict_setup_seconds + predicted / last.predict_rate
    fold = start_seconds + sum(found["seconds"] for found in stages) + final
    for_training = training_seconds(session_hours * 3600)
    available = for_training - decode
    stages_done, used = 0, start_seconds
    for found in stages:
        used += found["seconds"]
        stages_done += used <= available
    return {
        "stages": stages,
        "folds": folds,
        "start_seconds": start_seconds,
        "final_seconds": final,
        "fold_seconds": fold,
        "decode_seconds": decode,
        "total_seconds": decode + folds * fold,
        "session_hours": session_hours,
        "session_share": for_training / (session_hours * 3600),
        "folds_a_session": max(0, int(available // fold)),
        "stages_a_session": stages_done,
        "early_stopping": any(stage.early_stopping for stage in recipe.stages),
    }


def probe(asked: ProbeTask) -> tuple[float, list[StageProbe], float]:
    """Try some batches of every stage: seconds until the data was there, what was found, and the seconds that
    decoding the test pictures takes before they are predicted.
    """
    task = asked.task
    data = load_data(task.competition, extra=task.recipe.extra)
    with (
        WorkerPool(task.workers) as pool,
        Progress(total=len(_STEPS) * len(task.recipe.stages), desc="plan", leave=False, disable=None) as bar,
    ):
        start = time.time() - asked.started
        found = []
        for number, stage in enumerate(task.recipe.stages):
            steps = iter(f"{stage.name}: {step}" for step in _STEPS)

            def step(steps: Iterator[str] = steps, name: str = stage.name) -> None:
                task.limit.check(f"the end of trying {name}")
                bar.set_postfix_str(next(steps, ""))
                bar.update()

            found.append(_probe_stage(task, data, number, pool, step=step))
    train, cache = list(data.train["path"]), task.workspace.cache(task.competition.slug)
    found = [replace(one, kept=are_kept(train, size=one.size, folder=cache)) for one in found]
    # Where there is no room for decoded pictures, decoding is in the speed of prediction.
    last, test = found[-1], list(data.test["path"])
    return start, found, decoding_seconds(test, size=last.size, folder=cache) if last.kept else 0.0


def _probe_stage(
    task: FoldTask, data: CompetitionData, number: int, pool: WorkerPool, *, step: Callable[[], None]
) -> StageProbe:
    recipe, stage = task.recipe, task.recipe.stages[number]
    reset_peak_memory(_children())
    peak_device_memory()
    step()
    started = time.perf_counter()
    rows = stage_rows(task, data, number)
    source, watched, workers = rows.source, rows.watched, task.workers
    decoded = time.perf_counter() - started
    started = time.perf_counter()
    network, freezing = stage_network(recipe, number, source, classes=source.classes, start=None)
    cost, fitted, feature_seconds, feature_rate = network_cost(network, source.pictures.size), network, 0.0, None
    built = time.perf_counter() - started
    views = kept_views(recipe.stages[number])
    if views:
        backbone, fitted = freeze(network, backbone=recipe.backbone, room=task.room("the plan"), pool=pool)
        feature_rate = backbone.rate(source.pictures, views[-1])
        feature_seconds = len(views) * len(source.pictures) / feature_rate
        unknown = MemoryRows(np.zeros(backbone.shape(source.pictures), dtype=np.float16))
        source, workers = replace(source, features=(unknown,) * len(views)), 0
        watched = replace(watched, pictures=unknown)
    step()
    fed = input_rate(source, pool, workers=workers)
    step()
    started = time.perf_counter()
    fitted = compile_for(fitted, recipe, number, source, classes=source.classes)
    built += time.perf_counter() - started
    if isinstance(stage.optimizer, LogisticRegression):
        built += regression_seconds(len(source.rows) * len(source.features), source)
    first, train_rate = training_rate(fitted, source, pool, parts=stage.parts, workers=workers)
    step()
    predict_setup, predict_rate = prediction_rate(fitted, watched)
    return StageProbe(
        name=stage.name,
        size=source.pictures.size,
        blocks=freezing.blocks,
        unfrozen=freezing.unfrozen,
        parameters=cost.parameters,
        trainable_parameters=cost.trainable,
        flops=cost.flops,
        trained=len(source.rows),
        watched=len(rows.watched.rows),
        held_out=0 if rows.watched is rows.held_out else len(rows.held_out.rows),
        decode_seconds=decoded,
        feature_seconds=feature_seconds,
        feature_rate=feature_rate,
        input_rate=fed,
        train_rate=train_rate,
        predict_rate=predict_rate,
        setup_seconds=built + first,
        predict_setup_seconds=predict_setup,
        save_seconds=save_seconds(network),
        peak_bytes=peak_memory(_children()),
        device_bytes=peak_device_memory(),
    )


def regression_seconds(rows: int, source: TrainingInput) -> float:
    """About how long `fit_head` takes with its strength to be chosen: by some rows of noise, times its fits."""
    classes, some = source.classes, min(rows, 500)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(some, *source.example[0])).astype(np.float32)
    started, everything = time.perf_counter(), np.arange(some)
    fit_head(features, everything % classes, trained=everything, inner=everything[:0], classes=classes)
    return (time.perf_counter() - started) * (len(STRENGTHS) + 1) * rows / some


def _children() -> list[int]:
    """Ids of the workers' processes."""
    return [child.pid for child in multiprocessing.active_children() if child.pid]
