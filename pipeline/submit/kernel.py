"""Building a kernel: a folder with one code file and its metadata that Kaggle can run without this repository.

    kernels/<name>/<code file>, kernel-metadata.json      the template            (committed)
    kernels/<name>/build/<slug>/                          what is pushed          (ignored)

The code file carries the package, the recipe, the competition's description and its folds, so that the kernel
trains what this machine would. What does not fit into it (weights, packages) is the matter of `bundle.py`.
"""

import base64
import importlib.metadata
import io
import json
import os
import pprint
import re
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts import Workspace, atomic_folder, read_json, write_json
from pipeline.competition import Competition
from pipeline.data.competition_data import load_data
from pipeline.errors import DataError, KitError
from pipeline.model.backbones import BACKBONES, check_backbone
from pipeline.recipe import Recipe, parse_recipe
from pipeline.submit import payload
from pipeline.submit.kaggle_kernels import SOURCE_LIMIT, read

METADATA = "kernel-metadata.json"
JOB = "job.json"
SESSION_SECONDS = 12 * 3600.0  # Kaggle's limit
SLUG_LIMIT = 50  # letters of a kernel's and of a data set's slug
_PACKAGE = Path(payload.__file__).parents[1]
_IMPORT = "from pipeline.submit.payload import JOB, unpack\n"
# By a backbone's source: what Kaggle's image lacks. All of it is pure Python.
_LACKING = {"efficientnet": ("efficientnet", "keras-applications")}
# What a kernel has no use for: the command line, the drawing of the demo, the local Kaggle.
_LEFT_OUT = ("cli", "demo", "rehearsal")


@dataclass(frozen=True)
class Job:
    """What a built kernel is to do; it travels inside the code file.

    Attributes:
        recipe: Every setting, resolved.
        folds: The folds to train; None for all.
        session_seconds: How long Kaggle lets the kernel run.
        build: A name no other build has, by which its output is known again.
        files: Paths inside the competition's data folder, by which the kernel finds that folder.
        bundle: Slug of the private data set with what the code file cannot carry.
        packages: Requirements that Kaggle's image does not meet, such as `efficientnet==1.1.1`.
        model: Of a finished experiment to predict with: classes, size, folds, tta_used; None when training.
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
    build: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class Template:
    """A folder in kernels/: its code and its metadata."""

    folder: Path
    code: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Built:
    """A built kernel.

    Attributes:
        folder: What is pushed.
        attached: Text of the payload where it is too large for the code file, else "".
    """

    folder: Path
    job: Job
    attached: str = ""

    @property
    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.folder / METADATA)
        return found

    @property
    def slug(self) -> str:
        return self.folder.name

    @property
    def code_file(self) -> Path:
        return self.folder / str(self.metadata["code_file"])

    def change(self, **changes: Any) -> None:
        """Change keys of the metadata."""
        write_json(self.folder / METADATA, {**self.metadata, **changes})


def train_job(
    recipe: Recipe,
    competition: Competition,
    *,
    experiment: str,
    folds: Sequence[int] | None = None,
    session_seconds: float = SESSION_SECONDS,
    internet: bool = True,
) -> Job:
    """The job of training folds of a recipe; the folds are made now, so that the kernel shares them.

    Raises:
        RecipeError: The recipe's backbone or weights do not hold.
        DataError: The competition's data does not.
    """
    data = load_data(competition)
    sizes = [stage.resolve_size(data.mean_size) for stage in recipe.stages]
    check_backbone(recipe.backbone, weights=recipe.weights, sizes=sizes)
    unknown = sorted(set(folds or ()) - set(data.folds.numbers))
    if unknown:
        raise DataError(
            f"{competition.slug} has no fold {unknown[0]}",
            expected=f"a fold from {data.folds.numbers[0]} to {data.folds.numbers[-1]}",
            next_step=f"`kit folds {competition.slug}` shows them",
        )
    return _job(recipe, competition, experiment, session_seconds, internet, folds=folds)


def predict_job(
    manifest: Mapping[str, Any],
    competition: Competition,
    *,
    session_seconds: float = SESSION_SECONDS,
    internet: bool = False,
) -> Job:
    """The job of predicting the test pictures with a finished experiment, by its manifest."""
    model = {
        "classes": manifest["classes"],
        "folds": [int(fold) for fold in manifest["fold_scores"]],
        "size": manifest["stages"][-1]["size"],
        "tta_used": manifest["tta_used"],
    }
    recipe = parse_recipe(manifest["recipe"], source=f"of {manifest['experiment']}")
    return _job(recipe, competition, manifest["experiment"], session_seconds, internet, model=model)


def _job(recipe: Recipe, competition: Competition, experiment: str, seconds: float, internet: bool, **more: Any) -> Job:
    lacking = _LACKING.get(BACKBONES[recipe.backbone].source, ())
    settings = recipe.model_dump(mode="json")
    if Path(recipe.weights).is_file():
        settings["weights"] = Path(recipe.weights).name  # the kernel finds it in its bundle
    train, test = competition.train, competition.test
    files = [competition.sample_submission, train.table, train.pictures, test.pictures if test else None]
    return Job(
        competition=competition.slug,
        experiment=experiment,
        recipe=settings,
        session_seconds=seconds,
        bundle=kernel_slug("kit", competition.slug, experiment),
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


def build_kernel(
    template: Template, job: Job, competition: Competition, *, workspace: Workspace, metadata: Mapping[str, Any]
) -> Built:
    """Fill a template in.

    Args:
        metadata: Keys of kernel-metadata.json that replace the template's.

    Raises:
        InvalidKernel: The metadata does not hold.
        KitError: The folder would hold a secret or a path of this machine.
    """
    described = {**template.metadata, **metadata}
    packed = pack(competition)
    filled, attached = _fill_in(template.code, job, packed), ""
    if len(filled.encode()) >= SOURCE_LIMIT:
        filled, attached = _fill_in(template.code, job, ""), packed
    if len(filled.encode()) >= SOURCE_LIMIT:
        raise KitError(
            f"{template.folder} makes a code file of {len(filled.encode()) / 1e6:.2f} MB",
            expected=f"less than {SOURCE_LIMIT / 1e6:.0f} MB, which is what Kaggle takes",
            next_step="shorten the template",
        )
    code_file = str(described["code_file"])
    _refuse_leaks({code_file: filled, **_members(packed)}, workspace)
    target = template.folder / "build" / str(described["title"])
    _remove_built(target)
    with atomic_folder(target) as folder:
        (folder / code_file).write_text(filled, "utf-8")
        write_json(folder / METADATA, described)
        read(folder)
        write_json(folder / JOB, asdict(job))
    return Built(target, job, attached)


def pack(competition: Competition) -> str:
    """The package and the competition's description, zipped, in base 85; the same text for the same files."""
    files = {
        path.relative_to(_PACKAGE.parent).as_posix(): path
        for path in sorted(_PACKAGE.rglob("*"))
        if path.suffix in {".py", ".yaml"} and path.relative_to(_PACKAGE).parts[0] not in _LEFT_OUT
    }
    for file in (competition.folder / "competition.yaml", competition.folds_file, competition.quarantine_file):
        if file.is_file():
            files[f"competitions/{competition.slug}/{file.name}"] = file
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, path in files.items():
            member = zipfile.ZipInfo(name)  # dated 1980: the time of the build is not part of it
            archive.writestr(member, path.read_bytes(), zipfile.ZIP_LZMA)
    text = base64.b85encode(buffer.getvalue()).decode("ascii")
    return "\n".join(text[start : start + 110] for start in range(0, len(text), 110))


def read_template(name: str, workspace: Workspace) -> Template:
    """Read a template.

    Raises:
        KitError: There is no such folder in kernels/, or it holds none.
    """
    folder = workspace.root / "kernels" / name
    file = folder / METADATA
    if not file.is_file():
        known = sorted(path.parent.name for path in (workspace.root / "kernels").glob(f"*/{METADATA}"))
        raise KitError(
            f"there is no kernel {name!r} ({file} does not exist)",
            expected="one of " + ", ".join(known) if known else "the folder kernels/ of the kit",
            next_step="run the command in the kit's folder, or check the name",
        )
    try:
        metadata: dict[str, Any] = json.loads(file.read_text("utf-8"))
        code = (folder / str(metadata["code_file"])).read_text("utf-8")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise KitError(
            f"{file} cannot be read: {error}",
            expected="the settings of a Kaggle kernel, with a code_file beside it",
            next_step="mend the file",
        ) from None
    if code.count(_IMPORT) != 1:
        raise KitError(
            f"{folder / str(metadata['code_file'])} is not a template",
            expected=f"one line `{_IMPORT.strip()}`, where the job and the package go",
            next_step="take kernels/train/train.py as an example",
        )
    return Template(folder, code, metadata)


def list_built(name: str, workspace: Workspace) -> list[Built]:
    """The built kernels of a template, the newest last."""
    folders = (workspace.root / "kernels" / name / "build").glob(f"*/{METADATA}")
    newest_last = sorted(folders, key=lambda file: file.stat().st_mtime_ns)
    return [Built(file.parent, Job(**read_json(file.parent / JOB))) for file in newest_last]


def find_built(name: str, slug: str | None, *, workspace: Workspace) -> Built:
    """The newest built kernel of a template, or the one with this slug.

    Raises:
        KitError: There is none.
    """
    built = [each for each in list_built(name, workspace) if slug in (None, each.slug)]
    if not built:
        known = ", ".join(each.slug for each in list_built(name, workspace))
        raise KitError(
            f"there is no built kernel {slug!r} of {name}" if slug else f"the kernel {name} has not been built",
            expected=f"one of {known}" if known else "a folder made by `kit kernel build`",
            next_step=f"kit kernel build {name}",
        )
    return built[-1]


def _fill_in(template: str, job: Job, packed: str) -> str:
    text = Path(payload.__file__).read_text("utf-8")
    _, _, body = text.split('"""', 2)
    said = pprint.pformat(asdict(job), width=110, sort_dicts=False)
    body = body.replace("JOB: dict[str, Any] = {}\n", f"JOB: dict[str, Any] = {said}\n")
    if packed:
        body = body.replace('PAYLOAD = ""\n', f'PAYLOAD = """\n{packed}\n"""\n')
    return template.replace(_IMPORT, body.strip() + "\n")


def _members(packed: str) -> dict[str, str]:
    archive = zipfile.ZipFile(io.BytesIO(base64.b85decode(packed.replace("\n", ""))))
    return {name: archive.read(name).decode("utf-8") for name in archive.namelist()}


def _refuse_leaks(texts: Mapping[str, str], workspace: Workspace) -> None:
    """A kernel may be made public with a click: nothing of this machine or its user may be in it."""
    for file, text in texts.items():
        for what, needle in _private(workspace):
            if needle in text:
                raise KitError(
                    f"{file} of the kernel would hold {what}",
                    expected="a kernel that says nothing of this machine and its user",
                    next_step="remove it from the template, the recipe or competition.yaml",
                )


def _private(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """What must not leave this machine, with its name."""
    for key, value in os.environ.items():
        if key.startswith("KAGGLE_") and re.search("KEY|TOKEN", key) and len(value) >= 8:
            yield f"the value of {key}", value
    folder = Path("~/.kaggle").expanduser()
    for file in (folder / "kaggle.json", folder / "access_token", folder / "credentials.json"):
        if file.is_file():
            for secret in re.findall(r"[\w.-]{20,}", file.read_text("utf-8", "replace")):
                yield f"a secret of {file}", secret
    for path in {str(workspace.root.resolve()), str(Path.home())} - {"/"}:
        yield "a path of this machine", path + "/"


def _remove_built(folder: Path) -> None:
    for file in folder.glob("*"):
        file.unlink()
    if folder.is_dir():
        folder.rmdir()
