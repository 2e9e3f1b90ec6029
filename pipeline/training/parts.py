"""In how many parts the batches of a stage go through the network, where its recipe leaves that to the machine.

runs/<slug>/_parts/<key>.json        what was found once, for all folds and experiments that need the same memory

`batch_size` is what the optimizer sees on every machine, whatever is found here.
"""

import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import read_json, write_json
from pipeline.data.competition_data import CompetitionData
from pipeline.data.inputs import TrainingInput
from pipeline.data.pictures import MemoryPictures
from pipeline.errors import OutOfMemory, counted
from pipeline.model.cost import network_cost
from pipeline.recipe import Recipe
from pipeline.training.device import device, divisible, keras_backend
from pipeline.training.engines import fresh_process
from pipeline.training.frozen import kept_views
from pipeline.training.memory import available_memory, machine_memory, peak_memory
from pipeline.training.network import compile_for, stage_network

log = logging.getLogger(__name__)
# Shares of the memory that is free: an estimate below the first needs no trial; above the second the input lacks room.
_CLEARLY, _FITS = 0.25, 0.8


@dataclass(frozen=True)
class Trial:
    """The arguments of `try_batch`: a stage, its parts a number, and (height, width) in pixels."""

    recipe: Recipe
    number: int
    size: tuple[int, int]
    classes: int


def with_parts(
    recipe: Recipe, data: CompetitionData, *, folder: Path, run: Callable[..., Any] = fresh_process
) -> Recipe:
    """The recipe with a number for each `accumulate: auto`: the fewest parts that fit this machine.

    Args:
        folder: Where the numbers are remembered.
        run: Calls `try_batch`, by default in a process of its own, which may be killed.

    Raises:
        OutOfMemory: A single picture does not fit.
    """
    for number, stage in enumerate(recipe.stages):
        if stage.accumulate != "auto":
            known = _file(_trial(recipe, number, data), folder)
            parts = read_json(known)["parts"] if known.is_file() and not recipe.sees_parts(stage.batch_norm) else 1
            if parts > stage.parts:
                recipe = _set(recipe, number, parts)
                log.info("stage %s: batches in %d parts, as memory was found to need (%s)", stage.name, parts, known)
            continue
        if kept_views(stage) is not None:  # the head alone is trained, on features: nothing to try
            recipe = _set(recipe, number, 1)
            continue
        trial = _trial(recipe, number, data)
        file, how = _file(trial, folder), "remembered"
        if not file.is_file():
            parts, how = _fewest(trial, run)
            write_json(file, {"parts": parts, "how": how, "needs": _needs(trial)})
        recipe = _set(recipe, number, read_json(file)["parts"])
        stage = recipe.stages[number]
        in_words = counted(stage.parts, "part", "parts")
        log.info("stage %s: batches of %d in %s of %d (%s)", stage.name, stage.batch_size, in_words, stage.at_once, how)
    return recipe


def try_batch(trial: Trial) -> str:
    """See that a batch can be trained on, and say how: by an estimate, or by two steps with black pictures.

    Raises:
        MemoryError: There is too little memory; other errors, and the end of the process, say so, too.
    """
    stage, classes = trial.recipe.stages[trial.number], trial.classes
    free, on_cpu = available_memory(), device() == "CPU"
    with suppress(OSError):  # of all processes the system is to end this one
        Path("/proc/self/oom_score_adj").write_text("1000")
    pictures = MemoryPictures(np.zeros((1, *trial.size, 3), dtype=np.uint8))
    rows = np.zeros(divisible(stage.batch_size, parts=stage.parts), dtype=np.int64)
    source = TrainingInput(
        pictures, [""], rows[:1], classes, rows, stage.batch_size, "none", seed=0, fold=0, stage=trial.number
    )
    network, _ = stage_network(trial.recipe, trial.number, source, classes=classes, start=None)
    network = compile_for(network, trial.recipe, trial.number, source, classes=classes)
    cost = network_cost(network, trial.size)
    # More than a step needs: each output with its gradient; weights with gradients, two moments and an average.
    if on_cpu and 4 * (2 * stage.at_once * cost.outputs + 5 * cost.parameters) < _CLEARLY * free:
        return "estimated"
    targets = np.eye(classes, dtype=np.float32)[rows]
    network.fit(pictures.take(rows), targets, batch_size=len(rows), epochs=2, verbose=0)
    if on_cpu and free and peak_memory() > _FITS * free:
        raise MemoryError
    return "tried"


def _fewest(trial: Trial, run: Callable[..., Any]) -> tuple[int, str]:
    """The fewest parts that fit, and how that was found."""
    stage, parts = trial.recipe.stages[trial.number], 1
    while True:
        one = replace(trial, recipe=_set(trial.recipe, trial.number, parts))
        try:
            return parts, run(
                try_batch, one, what=f"{counted(stage.batch_size // parts, 'picture', 'pictures')} at once"
            )
        except OutOfMemory:
            if parts == stage.batch_size:
                raise
        parts = _more(parts, stage.batch_size)


def in_more_parts(recipe: Recipe, number: int, data: CompetitionData, *, folder: Path) -> Recipe | None:
    """The recipe with the batches of stage `number`, for which memory ran out, in parts half as large or less.

    It is remembered in `folder`, for `with_parts`. None where that would not help: they are of one picture already,
    or on kept features; or where BatchNorm would see the parts, so that it would be another recipe.
    """
    stage = recipe.stages[number]
    on_features = kept_views(stage) is not None  # in making them batches have no part
    if stage.at_once == 1 or on_features or recipe.sees_parts(stage.batch_norm):
        return None
    trial, parts = _trial(recipe, number, data), _more(stage.parts, stage.batch_size)
    write_json(_file(trial, folder), {"parts": parts, "how": "memory ran out", "needs": _needs(trial)})
    return _set(recipe, number, parts)


def _more(parts: int, batch_size: int) -> int:
    """The first divisor that at least halves them."""
    return next(more for more in range(2 * parts, batch_size + 1) if batch_size % more == 0)


def _trial(recipe: Recipe, number: int, data: CompetitionData) -> Trial:
    return Trial(recipe, number, recipe.stages[number].resolve_size(data.mean_size), len(data.classes))


def _file(trial: Trial, folder: Path) -> Path:
    digest = hashlib.sha256(json.dumps(_needs(trial)).encode()).hexdigest()
    return folder / f"{digest[:16]}.json"


def _needs(trial: Trial) -> dict[str, Any]:
    """What the number of parts depends on."""
    backend = keras_backend()
    of_stage = {"unfreeze", "batch_size", "optimizer", "layer_decay", "ema", "clip_norm"}
    return {
        "recipe": trial.recipe.model_dump(mode="json", include={"backbone", "head", "precision"}),
        "stage": trial.recipe.stages[trial.number].model_dump(mode="json", include=of_stage),
        "size": trial.size,
        "classes": trial.classes,
        "keras": importlib.metadata.version("keras"),
        "backend": backend,
        "memory": machine_memory(),
    }


def _set(recipe: Recipe, number: int, parts: int) -> Recipe:
    stages = list(recipe.stages)
    stages[number] = stages[number].model_copy(update={"accumulate": parts})
    return recipe.model_copy(update={"stages": tuple(stages)})
