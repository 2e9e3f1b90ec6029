"""Job: what a built kernel is to do, as it travels inside the kernel's code file."""

import importlib.metadata
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.competition import Competition
from pipeline.data.competition_data import load_data
from pipeline.errors import DataError
from pipeline.model.backbones import BACKBONES, check_backbone
from pipeline.predictions.manifests import ended_on, require_networks
from pipeline.recipe import Recipe, parse_recipe
from pipeline.session import SESSION_HOURS

SLUG_LIMIT = 50  # letters of a kernel's and of a data set's slug
# By a backbone's source: what Kaggle's image lacks. All of it is pure Python.
_LACKING = {"efficientnet": ("efficientnet", "keras-applications")}


@dataclass(frozen=True)
class Job:
    """What a built kernel is to do.

    Attributes:
        recipe: Every setting, resolved.
        folds: The folds to train; None for all.
        session_seconds: How long Kaggle lets the kernel run.
        build: A name no other build has, by which its output is known again.
        files: Paths inside the competition's data folder, by which the kernel finds that folder.
        bundle: Slug of the private data set with what the code file cannot carry.
        bundle_sha256: Of its files, so that the kernel knows a data set that is not the one it was built with; empty
            where the kernel needs none.
        attached: Whether the package is in the bundle, being too large for the code file.
        packages: Requirements that Kaggle's image does not meet, such as `efficientnet==1.1.1`.
        model: Of a finished experiment to predict with: classes, size, folds, tta_used, decision, fingerprint;
            None when training.
    """

    competition: str
    experiment: str
    recipe: Mapping[str, Any]
    session_seconds: float
    bundle: str
    files: Sequence[str]
    folds: Sequence[int] | None = None
    internet: bool = True
    packages: Sequence[str] = ()
    model: Mapping[str, Any] | None = None
    attached: bool = False
    bundle_sha256: str = ""
    build: str = field(default_factory=lambda: uuid.uuid4().hex)


def train_job(
    recipe: Recipe,
    competition: Competition,
    *,
    experiment: str,
    bundle: str,
    folds: Sequence[int] | None = None,
    session_seconds: float = SESSION_HOURS * 3600,
    internet: bool = True,
) -> Job:
    """The job of training folds of a recipe; the folds are made now, so that the kernel shares them.

    Raises:
        RecipeError: The recipe's backbone or weights do not hold.
        DataError: The competition's data does not.
    """
    data = load_data(competition, extra=recipe.extra)
    sizes = [stage.resolve_size(data.mean_size) for stage in recipe.stages]
    check_backbone(recipe.backbone, weights=recipe.weights, sizes=sizes)
    unknown = sorted(set(folds or ()) - set(data.folds.numbers))
    if unknown:
        raise DataError(
            f"{competition.slug} has no fold {unknown[0]}",
            expected=f"a fold from {data.folds.numbers[0]} to {data.folds.numbers[-1]}",
            next_step=f"`kit folds {competition.slug}` shows them",
        )
    return _job(recipe, competition, experiment, session_seconds, internet, bundle=bundle, folds=folds)


def predict_job(
    manifest: Mapping[str, Any],
    competition: Competition,
    *,
    bundle: str,
    session_seconds: float = SESSION_HOURS * 3600,
    internet: bool = False,
) -> Job:
    """The job of predicting the test pictures with a finished experiment, by its manifest."""
    require_networks(manifest)
    ends = ended_on(manifest)
    model = {
        "classes": manifest["classes"],
        "folds": list(ends),
        "stages": list(ends.values()),
        "sizes": [manifest["stages"][stage]["size"] for stage in ends.values()],
        "tta_used": manifest["tta_used"],
        "decision": manifest.get("decision"),
        "fingerprint": manifest["fingerprint"],
    }
    recipe = parse_recipe(manifest["recipe"], source=f"of {manifest['experiment']}")
    return _job(recipe, competition, manifest["experiment"], session_seconds, internet, bundle=bundle, model=model)


def _job(recipe: Recipe, competition: Competition, experiment: str, seconds: float, internet: bool, **more: Any) -> Job:
    lacking = _LACKING.get(BACKBONES[recipe.backbone].source, ())
    settings = recipe.model_dump(mode="json")
    if Path(recipe.weights).is_file():
        settings["weights"] = Path(recipe.weights).name  # the kernel finds it in its bundle
    train, test = competition.train, competition.test
    pictures = [train.pictures, train.held_out_pictures, test.pictures if test else None]
    files = [competition.sample_submission, train.table, *pictures]
    if "model" not in more:
        used = [competition.extra[name] for name in recipe.extra if name in competition.extra]
        files += [name for source in used for name in (source.table, source.pictures)]
    if train.table is None:
        # Any data may have a folder `train`, or be one: the first classes tell it from others.
        folders = sorted(path for path in (competition.data / train.pictures).iterdir() if path.is_dir())
        files += [path.relative_to(competition.data).as_posix() for path in folders[:3]]
    return Job(
        competition=competition.slug,
        experiment=experiment,
        recipe=settings,
        session_seconds=seconds,
        files=[name for name in files if name],
        internet=internet,
        packages=[f"{name}=={importlib.metadata.version(name)}" for name in lacking],
        **more,
    )


def kernel_slug(*parts: str) -> str:
    """A slug that is its own title: short enough for Kaggle even with `-part-99` behind it."""
    slug, longest = slugified("-".join(parts)), SLUG_LIMIT - len("-part-99")
    if len(slug) > longest:
        # Two long names must not become one kernel.
        digest = uuid.uuid5(uuid.NAMESPACE_URL, slug).hex[:8]
        slug = slug[: longest - 9].rstrip("-") + "-" + digest
    return slug


def slugified(title: str) -> str:
    """The slug that Kaggle makes of a title."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
