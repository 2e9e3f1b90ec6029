"""A recipe cut down until its training fits a time, by what was found in trying it (`plan.py`)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.errors import DoesNotFit, duration
from pipeline.recipe import SIZE_MULTIPLE, Cosine, Recipe, Stage, parse_recipe
from pipeline.training.plan import StageProbe, Tried, reckon

EPOCHS = (1.0, 0.75, 0.5)  # of each stage
PIXELS = (1.0, 0.75, 0.5)  # of each stage's pictures
FEWER_FOLDS = 3
SHARE = 0.9  # of the budget that is planned with: an estimate may be short


@dataclass(frozen=True)
class Budgeted:
    """What fits.

    Attributes:
        folds: Those to train.
        seconds: About what they take.
        kept: What is left of the recipe, in words; empty where it fits as it is.
    """

    recipe: Recipe
    folds: list[int]
    seconds: float
    kept: list[str]


def within(
    recipe: Recipe,
    tried: Tried,
    *,
    folds: Sequence[int],
    smallest: int,
    budget: float,
    used: float,
    decoding: Callable[[tuple[int, int]], float],
) -> Budgeted:
    """The recipe on all folds where some cut of epochs and pixels fits, else on three, else on one.

    Of the cuts that fit the one that uses most of the time.

    Args:
        folds: All that may be trained.
        smallest: Side in pixels below which the backbone cannot see.
        budget: Seconds that there were; of what is left `SHARE` is planned with.
        used: Seconds of them that went into trying the recipe.
        decoding: About how many seconds it takes to decode all pictures at a size, if they are not kept already.

    Raises:
        DoesNotFit: Not even one fold of the smallest cut fits.
    """
    cuts = [(epochs, pixels) for pixels in PIXELS for epochs in EPOCHS]
    least = math.inf
    for count in dict.fromkeys((len(folds), min(FEWER_FOLDS, len(folds)), 1)):
        fitting = []
        for epochs, pixels in cuts:
            cut, probes = _cut(recipe, tried.probes, epochs=epochs, pixels=pixels, smallest=smallest, decoding=decoding)
            known = {**vars(tried), "probes": probes, "folds": count}
            takes = float(reckon(cut, **known, session_hours=1)["total_seconds"])
            least = min(least, takes)
            if takes <= SHARE * (budget - used):
                fitting.append((takes, cut, epochs, _share(probes, tried.probes)))
        if fitting:
            takes, cut, epochs, pixels = max(fitting, key=lambda one: one[0])
            kept = [
                *([f"{count} of {len(folds)} folds"] if count < len(folds) else []),
                *([f"{epochs:.0%} of each stage's epochs"] if epochs < 1 else []),
                *([f"{pixels:.0%} of the pixels"] if pixels < 1 else []),
            ]
            return Budgeted(cut, list(folds)[:count], takes, kept)
    raise DoesNotFit(
        f"{recipe.name} does not fit into {duration(budget)}, of which trying it took {duration(used)}: one fold of "
        f"half its epochs on half the pixels takes about {duration(least)}",
        expected="more time, or less to do",
        next_step=f"give it --budget {math.ceil((used + least / SHARE) / 60)}m, or take a smaller network",
    )


def _cut(
    recipe: Recipe,
    probes: Sequence[StageProbe],
    *,
    epochs: float,
    pixels: float,
    smallest: int,
    decoding: Callable[[tuple[int, int]], float],
) -> tuple[Recipe, list[StageProbe]]:
    """The recipe with fewer epochs and pixels, and what its stages would have been found to cost."""
    content = recipe.model_dump(mode="json")
    found = []
    for number, (stage, one) in enumerate(zip(recipe.stages, probes, strict=True)):
        size = one.size
        if pixels < 1:
            height, width = (
                min(side, max(smallest, SIZE_MULTIPLE * max(1, round(side * math.sqrt(pixels) / SIZE_MULTIPLE))))
                for side in one.size
            )
            size = (height, width)
            content["stages"][number]["size"] = list(size)
        content["stages"][number] |= _shorter(stage, epochs)
        # The sizes that were tried are decoded by now, where there is room for them.
        found.append(replace(_scaled(one, size), decode_seconds=decoding(size) if one.kept else one.decode_seconds))
    return parse_recipe(content, source=f"{recipe.name}, cut down"), found


def _share(cut: Sequence[StageProbe], whole: Sequence[StageProbe]) -> float:
    """How much of the pixels of all stages together is left: sides are multiples of 32."""
    left, all_of_them = (sum(math.prod(one.size) for one in probes) for probes in (cut, whole))
    return left / all_of_them


def _shorter(stage: Stage, share: float) -> dict[str, Any]:
    count = max(1, round(share * stage.epochs))
    changes: dict[str, Any] = {"epochs": count}
    if isinstance(stage.schedule, Cosine) and stage.schedule.warmup_epochs >= count:
        changes["schedule"] = {"kind": "cosine", "warmup_epochs": count / 2}
    return changes


def _scaled(one: StageProbe, size: tuple[int, int]) -> StageProbe:
    """With the time of convolutions, which goes by the number of pixels; what a head makes of features stays."""
    ratio = math.prod(size) / math.prod(one.size)
    found = replace(one, size=size, feature_seconds=one.feature_seconds * ratio)
    if one.feature_rate:
        return replace(found, feature_rate=one.feature_rate / ratio)
    rates = {name: asdict(one)[name] / ratio for name in ("input_rate", "train_rate", "predict_rate")}
    return replace(found, **rates)
