"""Bundle: what a kernel needs and its code file cannot carry, as a private Kaggle data set.

Flat, since Kaggle unpacks archives and flattens what it likes: published weights under their own names, the weights
of a finished experiment as `fold-<n>.weights.h5`, packages of pure Python as wheels, and `<slug>.json`, by which
the kernel knows the folder again.
"""

import hashlib
import importlib.metadata
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts import Workspace, atomic_folder, read_json, write_json
from pipeline.errors import DataError, KitError
from pipeline.model.backbones import BACKBONES
from pipeline.model.weights import obtain
from pipeline.recipe import Recipe
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.kernel import Built

_UPLOADED = "uploaded.json"


def needs_bundle(built: Built) -> bool:
    """Whether this kernel cannot do without a bundle."""
    job, weights = built.job, built.job.recipe["weights"]
    published = weights in BACKBONES[job.recipe["backbone"]].files
    fetches = published or bool(job.packages)
    own_file = not published and weights != "none"
    return bool(job.model or built.attached or own_file or (fetches and not job.internet))


def gather(built: Built, recipe: Recipe, *, workspace: Workspace) -> Path:
    """Gather the files of a kernel's bundle into a folder; large ones as links.

    Args:
        recipe: The job's, with the path on this machine where its weights are a file.

    Raises:
        DataError: The weights of a fold are gone.
        RecipeError: The published weights are not here and cannot be fetched.
        KitError: A package is not pure Python.
    """
    job, target = built.job, bundle_folder(built)
    record = read_json(target / _UPLOADED) if (target / _UPLOADED).is_file() else None
    shutil.rmtree(target, ignore_errors=True)
    with atomic_folder(target) as folder:
        files = folder / "files"
        files.mkdir()
        write_json(files / f"{job.bundle}.json", {"competition": job.competition, "experiment": job.experiment})
        for requirement in job.packages:
            repack_wheel(requirement.partition("==")[0], files)
        if job.model:
            last = len(recipe.stages) - 1
            for fold in job.model["folds"]:
                weights = workspace.fold(job.competition, job.experiment, fold) / f"stage-{last}" / "best.weights.h5"
                _link(weights, files, f"fold-{fold}.weights.h5")
        elif recipe.weights in BACKBONES[recipe.backbone].files:
            _link(obtain(BACKBONES[recipe.backbone].files[recipe.weights]), files)
        elif recipe.weights != "none":
            _link(Path(recipe.weights), files)
        if built.attached:
            (files / f"{job.bundle}.b85").write_text(built.attached, "ascii")
        if record:
            write_json(folder / _UPLOADED, record)
    return target


def bundle_folder(built: Built) -> Path:
    """Where a kernel's bundle is gathered."""
    return built.folder.parent.parent / "bundle" / built.job.bundle


def upload(
    kaggle: Kaggle,
    built: Built,
    *,
    progress: bool = False,
    seconds: float = 1800.0,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Upload what `gather` gathered unless it is there already, wait until Kaggle has read it, and attach it.

    Returns:
        owner/slug of the data set.

    Raises:
        KitError: Kaggle could not read it, or has not in this time.
    """
    folder, ref = bundle_folder(built), f"{kaggle.user}/{built.job.bundle}"
    said = {"server": kaggle.server, "ref": ref, "sha256": content_sha256(folder / "files")}
    there = read_json(folder / _UPLOADED) if (folder / _UPLOADED).is_file() else None
    if there != said or kaggle.dataset_status(ref) is None:
        kaggle.upload_dataset(
            folder / "files", ref=ref, title=built.job.bundle, notes=built.job.build, progress=progress
        )
        write_json(folder / _UPLOADED, said)
    deadline, pause = time.monotonic() + seconds, 1.0
    while (status := str(kaggle.dataset_status(ref)).upper()) != "READY":
        if "FAILED" in status or time.monotonic() > deadline:
            raise KitError(
                f"the data set {ref} is {status}",
                expected=f"READY within {seconds / 60:.0f} minutes",
                next_step="look at it on Kaggle; the same command goes on from here",
            )
        sleep(pause)
        pause = min(2 * pause, 30.0)
    built.change(dataset_sources=sorted({*built.metadata.get("dataset_sources", []), ref}))
    return ref


def repack_wheel(name: str, folder: Path) -> Path:
    """Make a wheel of an installed package of pure Python: the version that was tested here, without a network.

    Raises:
        KitError: It is not installed, or has compiled parts.
    """
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise KitError(
            f"the package {name} is not installed",
            expected="the packages of setup.cfg",
            next_step=f"pip install {name}",
        ) from None
    members = [file for file in found.files or () if ".." not in file.parts and "__pycache__" not in file.parts]
    compiled = [file for file in members if file.suffix in {".so", ".pyd"}]
    if compiled or not members:
        raise KitError(
            f"the package {name} has compiled parts: {compiled[:1]}" if compiled else f"{name} does not list its files",
            expected="a package of pure Python",
            next_step="attach a wheel of it yourself: --dataset OWNER/SLUG",
        )
    path = folder / f"{found.name.replace('-', '_')}-{found.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in sorted(members):
            archive.writestr(zipfile.ZipInfo(member.as_posix()), Path(str(member.locate())).read_bytes())
    return path


def content_sha256(folder: Path) -> str:
    """Hash of the names and contents of a folder's files."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        with file.open("rb") as opened:
            digest.update(f"{file.name}\n{hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _link(source: Path, folder: Path, name: str | None = None) -> None:
    if not source.is_file():
        raise DataError(
            f"the weights {source} do not exist",
            expected="the weights of every fold, in runs/",
            next_step="train the experiment again, or fetch its kernel's output",
        )
    # A link, since weights are large; the client reads through it.
    (folder / (name or source.name)).symlink_to(source.resolve())
