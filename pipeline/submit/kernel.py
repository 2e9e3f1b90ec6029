"""Building a kernel: a folder with one code file and its metadata that Kaggle can run without this repository.

    kernels/<name>/<code file>, kernel-metadata.json      the template            (committed)
    kernels/<name>/build/<slug>/                          what is pushed          (ignored)

The code file carries the package, the recipe, the competition's description and its folds, so that the kernel
trains what this machine would. What does not fit into it (weights, packages) is the matter of `bundle.py`.
"""

import base64
import io
import json
import pprint
import shlex
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.artifacts import Workspace, atomic_folder, read_json, write_json
from pipeline.competition import Competition
from pipeline.errors import KitError
from pipeline.recipe import Recipe
from pipeline.submit import payload
from pipeline.submit.bundle import bundle_folder, gather, needs_bundle
from pipeline.submit.job import Job
from pipeline.submit.kaggle_kernels import SOURCE_LIMIT, read
from pipeline.submit.leaks import refuse_leaks

METADATA = "kernel-metadata.json"
JOB = "job.json"
_PACKAGE = Path(payload.__file__).parents[1]
_IMPORT = "from pipeline.submit.payload import JOB, unpack\n"
# What a kernel has no use for: the command line, the drawing of the demo, the local Kaggle.
_LEFT_OUT = ("cli", "demo", "doctor.py", "rehearsal")


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
    """

    folder: Path
    job: Job

    @property
    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.folder / METADATA)
        return found

    @property
    def name(self) -> str:
        """Of its template."""
        return self.folder.parent.parent.name

    @property
    def slug(self) -> str:
        return self.folder.name

    @property
    def code_file(self) -> Path:
        return self.folder / str(self.metadata["code_file"])

    def change(self, **changes: Any) -> None:
        """Change keys of the metadata."""
        write_json(self.folder / METADATA, {**self.metadata, **changes})


def build_kernel(
    template: Template,
    job: Job,
    recipe: Recipe,
    competition: Competition,
    *,
    workspace: Workspace,
    metadata: Mapping[str, Any],
) -> Built:
    """Fill a template in, and gather its bundle where it needs one.

    Args:
        recipe: The job's, with the path on this machine where its weights are a file.
        metadata: Keys of kernel-metadata.json that replace the template's.

    Raises:
        InvalidKernel: The metadata does not hold.
        KitError: The folder would hold a secret or a path of this machine, or as `gather` raises.
    """
    described = {**template.metadata, **metadata}
    code_file, packed = str(described["code_file"]), pack(competition, extra=recipe.extra)
    refuse_leaks({**_members(packed), code_file: _fill_in(template.code, job, "")}, workspace)
    job = replace(job, attached=_size(_fill_in(template.code, job, packed)) >= SOURCE_LIMIT)
    if needs_bundle(job):
        digest = gather(job, recipe, bundle_folder(template.folder, job), workspace=workspace, packed=packed)
        job = replace(job, bundle_sha256=digest)
    filled = _fill_in(template.code, job, "" if job.attached else packed)
    if _size(filled) >= SOURCE_LIMIT:
        raise KitError(
            f"{template.folder} makes a code file of {_size(filled) / 1e6:.2f} MB",
            expected=f"less than {SOURCE_LIMIT / 1e6:.0f} MB, which is what Kaggle takes",
            next_step="shorten the template",
        )
    target = template.folder / "build" / str(described["title"])
    _remove_built(target)
    with atomic_folder(target) as folder:
        (folder / code_file).write_text(filled, "utf-8")
        write_json(folder / METADATA, described)
        read(folder)
        write_json(folder / JOB, asdict(job))
    return Built(target, job)


def pack(competition: Competition, *, extra: Sequence[str] = ()) -> str:
    """The package and the competition's description, zipped, in base 85; the same text for the same files.

    Args:
        extra: Names of extra rows, of which pseudo-labels travel along.
    """
    files = {
        path.relative_to(_PACKAGE.parent).as_posix(): path
        for path in sorted(_PACKAGE.rglob("*"))
        if path.suffix in {".py", ".yaml"} and path.relative_to(_PACKAGE).parts[0] not in _LEFT_OUT
    }
    described = [competition.folder / "competition.yaml", competition.folds_file, competition.quarantine_file]
    described += [competition.groups_file, *([competition.metric_file] if competition.metric_file else [])]
    for name in extra:
        described += [competition.pseudo_file(name), competition.pseudo_file(name).with_suffix(".json")]
    for file in described:
        if file.is_file():
            files[f"competitions/{competition.slug}/{file.relative_to(competition.folder).as_posix()}"] = file
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
            expected="one of " + ", ".join(known) if known else "the folder kernels/ of the kit's clone, copied here",
            next_step=_copy_template(name) or ("check the name" if known else "copy it from there"),
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


def _copy_template(name: str) -> str:
    """The command that copies a template from the clone the kit runs from; empty where there is none."""
    template = _PACKAGE.parent / "kernels" / name
    if not (template / METADATA).is_file():
        return ""
    # Its files alone: what was built of it and pushed there stays there.
    return f"mkdir -p kernels/{name} && cp {shlex.quote(str(template))}/*.* kernels/{name}/"


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


def _size(text: str) -> int:
    return len(text.encode())


def _members(packed: str) -> dict[str, str]:
    archive = zipfile.ZipFile(io.BytesIO(base64.b85decode(packed.replace("\n", ""))))
    return {name: archive.read(name).decode("utf-8") for name in archive.namelist()}


def _remove_built(folder: Path) -> None:
    for file in folder.glob("*"):
        file.unlink()
    if folder.is_dir():
        folder.rmdir()
