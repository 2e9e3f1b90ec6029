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
from pipeline.model.backbones import BACKBONES, weights_file
from pipeline.model.weights import PublishedFile
from pipeline.predictions.manifests import finished_weights
from pipeline.recipe import Recipe
from pipeline.submit.job import Job
from pipeline.submit.kaggle_client import Kaggle
from pipeline.submit.leaks import refuse_leaks

_UPLOADED = "uploaded.json"
# Where an installed package was installed from: a path of this machine.
_NOT_PACKED = {"direct_url.json", "RECORD", "INSTALLER", "REQUESTED"}
_TEXT = {".py", ".txt", ".md", ".json", ".toml", ".cfg", ""}


def needs_bundle(job: Job) -> bool:
    """Whether this kernel cannot do without a bundle."""
    weights = job.recipe["weights"]
    published = isinstance(BACKBONES[job.recipe["backbone"]].files.get(weights), PublishedFile)
    fetches = published or bool(job.packages)
    not_fetched = not published and weights != "none"
    return bool(job.model or job.attached or not_fetched or (fetches and not job.internet))


def bundle_folder(template: Path, job: Job) -> Path:
    """Where a kernel's bundle is gathered."""
    return template / "bundle" / job.bundle


def gather(job: Job, recipe: Recipe, target: Path, *, workspace: Workspace, packed: str) -> str:
    """Gather the files of a kernel's bundle into a folder; large ones as links.

    Args:
        recipe: The job's, with the path on this machine where its weights are a file.
        packed: The package, for a job that has it attached.

    Returns:
        The SHA-256 of names and contents, which stands in `<slug>.json`, too.

    Raises:
        DataError: As of `finished_weights`, or the recipe's own weights are gone.
        RecipeError: The published weights are not here and cannot be fetched.
        KitError: A package is not pure Python, or holds what must not leave this machine.
    """
    record = read_json(target / _UPLOADED) if (target / _UPLOADED).is_file() else None
    shutil.rmtree(target, ignore_errors=True)
    with atomic_folder(target) as folder:
        files = folder / "files"
        files.mkdir()
        for requirement in job.packages:
            repack_wheel(requirement.partition("==")[0], files, workspace=workspace)
        if job.model:
            for fold, stage in zip(job.model["folds"], job.model["stages"], strict=True):
                known = {"stage": stage, "fingerprint": job.model["fingerprint"]}
                weights = finished_weights(workspace, job.competition, job.experiment, fold, **known)
                _link(weights, files, f"fold-{fold}.weights.h5")
        elif recipe.weights != "none":
            _link(weights_file(recipe.backbone, recipe.weights), files)
        if job.attached:
            (files / f"{job.bundle}.b85").write_text(packed, "ascii")
        digest = _content_sha256(files)
        write_json(
            files / f"{job.bundle}.json",
            {"competition": job.competition, "experiment": job.experiment, "sha256": digest},
        )
        if record:
            write_json(folder / _UPLOADED, record)
    return digest


def upload(
    kaggle: Kaggle,
    job: Job,
    folder: Path,
    *,
    progress: bool = False,
    seconds: float = 1800.0,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Upload what `gather` gathered unless it is there already, and wait until Kaggle has read it.

    Returns:
        owner/slug of the data set, to be attached.

    Raises:
        KitError: Kaggle could not read it, or has not in this time.
    """
    ref = f"{kaggle.user}/{job.bundle}"
    said = {"server": kaggle.server, "ref": ref, "sha256": job.bundle_sha256}
    there = read_json(folder / _UPLOADED) if (folder / _UPLOADED).is_file() else None
    if there != said or _status(kaggle, ref) in ("", "FAILED"):
        (folder / _UPLOADED).unlink(missing_ok=True)
        kaggle.upload_dataset(folder / "files", ref=ref, title=job.bundle, notes=job.build, progress=progress)
    deadline, pause = time.monotonic() + seconds, 1.0
    while (status := _status(kaggle, ref)) != "READY":
        if "FAILED" in status or time.monotonic() > deadline:
            raise KitError(
                f"the data set {ref} is {status or 'not there'}",
                expected=f"READY within {seconds / 60:.0f} minutes",
                next_step="look at it on Kaggle, then run the same command again",
            )
        sleep(pause)
        pause = min(2 * pause, 30.0)
    # Only now: what Kaggle could not read is uploaded again.
    write_json(folder / _UPLOADED, said)
    return ref


def _status(kaggle: Kaggle, ref: str) -> str:
    return str(kaggle.dataset_status(ref) or "").upper()


def repack_wheel(name: str, folder: Path, *, workspace: Workspace) -> Path:
    """Make a wheel of an installed package of pure Python: the version that was tested here, without a network.

    Raises:
        KitError: It is not installed, has compiled parts, or holds what must not leave this machine.
    """
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise KitError(
            f"the package {name} is not installed",
            expected="the packages of setup.cfg",
            next_step=f"pip install {name}",
        ) from None
    members = [
        file
        for file in found.files or ()
        if not {"..", "__pycache__"} & set(file.parts) and file.name not in _NOT_PACKED
    ]
    compiled = [file for file in members if file.suffix in {".so", ".pyd"}]
    if compiled or not members:
        raise KitError(
            f"the package {name} has compiled parts: {compiled[:1]}" if compiled else f"{name} does not list its files",
            expected="a package of pure Python",
            next_step="attach a wheel of it yourself: --dataset OWNER/SLUG",
        )
    contents = {member.as_posix(): Path(str(member.locate())).read_bytes() for member in sorted(members)}
    texts = {key: value.decode("utf-8", "replace") for key, value in contents.items() if Path(key).suffix in _TEXT}
    refuse_leaks(texts, workspace)
    path = folder / f"{found.name.replace('-', '_')}-{found.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, content in contents.items():
            archive.writestr(zipfile.ZipInfo(key), content, zipfile.ZIP_DEFLATED)
    return path


def _content_sha256(folder: Path) -> str:
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
            expected="the file that the recipe begins with",
            next_step="put it back, or give another: --set weights=FILE",
        )
    # A link, since weights are large; the client reads through it.
    (folder / (name or source.name)).symlink_to(source.resolve())
