"""A learning-rate range test of one stage (Smith, “Cyclical learning rates for training neural networks”, WACV 2017).

The stage's own network, batches, optimizer and precision, for a few updates whose learning rate rises exponentially.
The range, the smoothing, the stop and the tenth of the lowest are those of fastai's `lr_find`. What is trained is
thrown away; decoded pictures and features of a frozen backbone stay, as training would leave them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import Workspace, read_json
from pipeline.competition import Competition
from pipeline.data.competition_data import CompetitionData, load_data
from pipeline.data.inputs import ErrorRelay, training_dataset
from pipeline.data.workers import WorkerPool
from pipeline.errors import KitError, RecipeError
from pipeline.progress import Progress
from pipeline.recipe import Exponential, LogisticRegression, Recipe, parse_recipe
from pipeline.training.cross_validate import check_recipe, folds_of
from pipeline.training.device import for_training
from pipeline.training.engines import fresh_process
from pipeline.training.fold import FoldTask, Machine, stage_task, start_of
from pipeline.training.network import compile_for, stage_network
from pipeline.training.parts import with_parts
from pipeline.training.result import run_identity
from pipeline.training.stage import on_features, stage_done

LOWEST, HIGHEST, UPDATES = 1e-7, 10.0, 100
_BETA = 0.98  # of the smoothed loss: how much of it is of the updates before
_EXPLODED = 4  # times the lowest smoothed loss
_DECADE = round((UPDATES - 1) / np.log10(HIGHEST / LOWEST))  # updates in which the rate rises tenfold
_FIRST, _LAST = UPDATES // 10, 5  # updates that are not read: too few to smooth over, and those that explode


@dataclass(frozen=True)
class RangeTest:
    """What was found.

    Attributes:
        start: The weights of the fold's stage before that it began with; None for the recipe's.
        rates: The learning rate of each update, float64 of shape (updates,).
        losses: Of each update's batch before it, likewise.
        exploded: Whether the loss ended it before all updates were done.
    """

    stage: str
    number: int
    fold: int
    batch_size: int
    start: Path | None
    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    exploded: bool

    @property
    def smoothed(self) -> NDArray[np.float64]:
        return smoothed(self.losses)

    @property
    def suggested(self) -> tuple[float, float]:
        """As of `suggested`."""
        return suggested(self.rates, self.smoothed)


@dataclass(frozen=True)
class RangeTask:
    """The arguments of `range_test`: a fold, a stage of its recipe, from 0, and weights to begin with, if any."""

    task: FoldTask
    number: int
    start: Path | None


def smoothed(losses: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Exponentially weighted means of the losses up to each one, freed of their bias to 0 (as Adam's moments are)."""
    mean, found = 0.0, []
    for count, loss in enumerate(losses, start=1):
        mean = _BETA * mean + (1 - _BETA) * loss
        found.append(mean / (1 - _BETA**count))
    return np.array(found)


def suggested(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> tuple[float, float]:
    """A tenth of the rate at which the smoothed loss is lowest, and the middle of the decade of rates over which it
    falls most.

    From one update to the next, as fastai has it, the steepest fall is mostly that of one lucky batch.

    Raises:
        KitError: The loss exploded too soon to read anything, or never fell.
    """
    rates, losses = rates[_FIRST:-_LAST], losses[_FIRST:-_LAST]
    falls = losses[:-_DECADE] - losses[_DECADE:]
    if not len(falls) or falls.max() <= 0:
        raise KitError(
            "no learning rate can be read from this: the loss "
            + ("never fell" if len(falls) else "exploded within the first updates"),
            expected="a loss that falls at some rates before it explodes",
            next_step="look at the stage's other settings: larger batches, other weights to begin with",
        )
    return float(rates[losses.argmin()] / 10), float(rates[falls.argmax() + _DECADE // 2])


def find_learning_rate(
    recipe: Recipe,
    competition: Competition,
    *,
    number: int,
    experiment: str,
    workspace: Workspace,
    fold: int | None = None,
    machine: Machine | None = None,
    run: Callable[..., Any] = fresh_process,
) -> RangeTest:
    """Test one stage on one fold; nothing of the experiment is written.

    Args:
        number: Of the stage, from 0.
        experiment: Whose weights of the stage before are begun with, if the same settings and data made them.
        fold: The first by default.
        run: Calls `range_test`, and what `with_parts` tries, by default in a process of its own.

    Raises:
        KitError: The stage is a regression, there is no such fold, or as `cross_validate` does.
    """
    if isinstance(recipe.stages[number].optimizer, LogisticRegression):
        raise RecipeError(
            f"stage {recipe.stages[number].name} of {recipe.name} has no learning rate: logistic_regression fits it to "
            "its optimum at once",
            expected="a stage that is trained by adam, adamw or sgd",
            next_step="name another stage with --stage, or leave the rate to the regression",
        )
    data = load_data(competition, extra=recipe.extra)
    check_recipe(recipe, data)
    [chosen] = folds_of(data, competition.slug, [data.folds.numbers[0] if fold is None else fold])
    task = FoldTask(
        *(recipe, competition, chosen, workspace, experiment, machine or Machine(), data.sha256, data.extra.sha256)
    )
    start = _earlier_weights(task, data, number)
    fitting = with_parts(recipe, data, folder=workspace.parts(competition.slug), run=run)
    found: RangeTest = run(range_test, RangeTask(replace(task, recipe=fitting), number, start), what="the range test")
    return found


def range_test(asked: RangeTask) -> RangeTest:
    """Train the stage on a few batches while its learning rate rises, until its loss explodes."""
    import keras

    task, number = asked.task, asked.number
    stage = task.recipe.stages[number]
    # The recipe's own exponential schedule, which for a recipe may only fall.
    rise = Exponential.model_construct(decay_rate=HIGHEST / LOWEST, decay_steps=UPDATES - 1)
    rising = stage.model_copy(update={"learning_rate": LOWEST, "schedule": rise})
    recipe = task.recipe.model_copy(
        update={"stages": (*task.recipe.stages[:number], rising, *task.recipe.stages[number + 1 :])}
    )
    data = load_data(task.competition, extra=recipe.extra)
    classes, rates, losses = len(data.classes), [], []

    class Watching(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            # Read, not computed: an update that `mixed_float16` leaves out does not raise it.
            self.rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            rates.append(self.rate)
            losses.append(float(logs["loss"]))
            means = smoothed(losses)
            self.model.stop_training = not means[-1] <= _EXPLODED * means.min()  # nor is a NaN
            bar.set_postfix_str(f"learning rate {self.rate:.1e}, loss {losses[-1]:.3f}")
            bar.update()

    with WorkerPool(task.workers) as pool, ErrorRelay() as relay:
        told = stage_task(task, data, number, start=asked.start)
        network, _ = stage_network(recipe, number, told.source, classes=classes, start=asked.start)
        fitted, source, *_ = on_features(recipe, told, network, pool) or (network, told.source)
        fitted = compile_for(fitted, recipe, number, source, classes=classes)
        batches = training_dataset(source, pool, epochs=range(-(-UPDATES // source.steps_per_epoch)), relay=relay)
        with Progress(
            total=UPDATES, desc=f"range test of {stage.name}", unit="update", leave=False, disable=None
        ) as bar:
            fitted.fit(
                for_training(batches, batch_size=source.batch_size, parts=stage.parts),
                epochs=UPDATES,
                steps_per_epoch=1,  # an epoch's loss is a mean over its batches
                callbacks=[Watching()],
                shuffle=False,
                verbose=0,
            )
    return RangeTest(
        stage=stage.name,
        number=number,
        fold=task.fold,
        batch_size=stage.batch_size,
        start=asked.start,
        rates=np.array(rates),
        losses=np.array(losses),
        exploded=len(losses) < UPDATES,
    )


def _earlier_weights(task: FoldTask, data: CompetitionData, number: int) -> Path | None:
    """Those that the stage begins from, if the fold has them, made by the same settings on the same data."""
    run = task.folder.parent
    if not number or not all(stage_done(task.stage_folder(one)) for one in range(number)):
        return None
    try:
        begun = parse_recipe(read_json(run / "recipe.json"), source=str(run / "recipe.json"))
    except RecipeError:  # of a build with other settings
        return None
    before = [one.model_copy(update={"stages": one.stages[:number]}) for one in (begun, task.recipe)]
    known = {**read_json(run / "run.json"), "fingerprint": before[0].fingerprint()}
    if known != run_identity(replace(task, recipe=before[1]), data):
        return None
    weights = start_of(task, data, number)
    return weights if weights and weights.is_file() else None
