"""In how many parts the batches of a stage go through the network, where its recipe leaves that to the machine.

runs/<slug>/_parts/<key>.json        what was found once, for all folds and experiments that need the same memory

`batch_size` is what the optimizer sees on every machine, whatever is found here.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import read_json, write_json
from pipeline.data.competition_data import CompetitionData
from pipeline.data.inputs import TrainingInput
from pipeline.data.pictures import MemoryPictures
from pipeline.errors import OutOfMemory, counted
from pipeline.model.cost import Cost, network_cost
from pipeline.recipe import Recipe
from pipeline.training.device import device, divisible
from pipeline.training.engines import fresh_process
from pipeline.training.memory import available_memory, machine_memory, peak_memory
from pipeline.training.stage import compiled_network

log = logging.getLogger(__name__)

_CLEARLY = 0.25  # of the memory that is free: an estimate below needs no trial
_FITS = 0.8  # likewise: the rest is for the input


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
    """The recipe with a number for each `accumulate: auto`: the fewest parts, doubled in turn, that fit this machine.

    Args:
        folder: Where the numbers are remembered.
        run: Calls `try_batch`, by default in a process of its own, which may be killed.

    Raises:
        OutOfMemory: A single picture does not fit.
    """
    for number, stage in enumerate(recipe.stages):
        if stage.accumulate != "auto":
            continue
        size, classes = stage.resolve_size(data.mean_size), len(data.classes)
        needs = _needs(recipe, number, size, classes)
        file, how = folder / f"{hashlib.sha256(json.dumps(needs).encode()).hexdigest()[:16]}.json", "remembered"
        if not file.is_file():
            for parts in _doubled(stage.batch_size):
                trial = Trial(_set(recipe, number, parts), number, size, classes)
                try:
                    how = run(try_batch, trial, what=f"a batch of stage {stage.name} in {parts} parts")
                    break
                except OutOfMemory:
                    if parts == stage.batch_size:
                        raise
            write_json(file, {"parts": parts, "how": how, "needs": needs})
        recipe = _set(recipe, number, read_json(file)["parts"])
        log.info(
            "stage %s: batches of %d in %s of %d (%s)",
            *(stage.name, stage.batch_size, counted(recipe.stages[number].parts, "part", "parts")),
            *(recipe.stages[number].at_once, how),
        )
    return recipe


def try_batch(trial: Trial) -> str:
    """See that a batch can be trained on, and say how: a sure estimate, or two steps with black pictures.

    Raises:
        MemoryError: There is too little memory; other errors, and the end of the process, say so, too.
    """
    stage, classes = trial.recipe.stages[trial.number], trial.classes
    free = available_memory()
    # Of all processes the system is to end this one.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    rows = np.zeros(divisible(stage.batch_size, parts=stage.parts), dtype=np.int64)
    source = TrainingInput(
        pictures=MemoryPictures(np.zeros((1, *trial.size, 3), dtype=np.uint8)),
        ids=[""],
        labels=rows[:1],
        classes=classes,
        rows=rows,
        batch_size=stage.batch_size,
        augment="none",
        seed=0,
        fold=0,
        stage=trial.number,
    )
    network, _ = compiled_network(trial.recipe, trial.number, source, classes=classes, start=None)
    on_cpu = device() == "CPU"
    if on_cpu and _most_bytes(network_cost(network, trial.size), stage.at_once) < _CLEARLY * free:
        return "estimated"
    pictures = source.pictures.take(rows)
    network.fit(pictures, np.eye(classes, dtype=np.float32)[rows], batch_size=len(rows), epochs=2, verbose=0)
    if on_cpu and free and peak_memory() > _FITS * free:
        raise MemoryError
    return "tried"


def _most_bytes(cost: Cost, pictures: int) -> int:
    """More than a training step of so many pictures needs."""
    # Every output with its gradient; weights with their gradients, two moments and an average.
    return 4 * (2 * pictures * cost.outputs + 5 * cost.parameters)


def _needs(recipe: Recipe, number: int, size: tuple[int, int], classes: int) -> dict[str, Any]:
    """What the number of parts depends on."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    return {
        "recipe": recipe.model_dump(mode="json", include={"backbone", "head", "precision"}),
        "stage": recipe.stages[number].model_dump(
            mode="json", include={"unfreeze", "batch_size", "optimizer", "layer_decay", "ema", "clip_norm"}
        ),
        "size": size,
        "classes": classes,
        "versions": {package: importlib.metadata.version(package) for package in ("keras", backend)},
        "memory": machine_memory(),
    }


def _doubled(batch_size: int) -> Iterator[int]:
    """1, and each divisor that is at least twice the one before."""
    last = 0.5
    for parts in range(1, batch_size + 1):
        if batch_size % parts == 0 and parts >= 2 * last:
            yield parts
            last = parts


def _set(recipe: Recipe, number: int, parts: int) -> Recipe:
    stages = list(recipe.stages)
    stages[number] = stages[number].model_copy(update={"accumulate": parts})
    return recipe.model_copy(update={"stages": tuple(stages)})
