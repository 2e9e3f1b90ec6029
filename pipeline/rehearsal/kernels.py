"""Kernels over the wire: pushed, run, fetched, submitted. How one is run belongs to a `KernelRunner`."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pipeline.artifacts import write_text
from pipeline.rehearsal.competitions import Competitions
from pipeline.rehearsal.datasets import DataSets
from pipeline.rehearsal.kernel import KernelResult
from pipeline.rehearsal.sessions import Sessions
from pipeline.rehearsal.state import Kernel, Store, Version
from pipeline.rehearsal.wire import USER, Answer, Refused, Request, deny, page, stamp, text_of
from pipeline.session import SESSION_HOURS

Mounts = Literal["new", "old"]

# What a kernel may be given → where a push names those that are not there.
_SOURCES = {
    "datasetDataSources": "invalidDatasetSources",
    "competitionDataSources": "invalidCompetitionSources",
    "kernelDataSources": "invalidKernelSources",
    "modelDataSources": "invalidModelSources",
}


@dataclass(frozen=True)
class KernelLimits:
    """What Kaggle allows, each figure as of August 2026.

    Attributes:
        source_bytes: Size of a kernel's source.
        session_seconds: Length of a session.
        gpu_seconds: Time with a GPU a week. It is reported, not enforced: faults `quota` and `busy` refuse a push.
    """

    source_bytes: int = 1_000_000
    session_seconds: float = SESSION_HOURS * 3600
    gpu_seconds: int = 30 * 3600


class Kernels:
    def __init__(
        self,
        store: Store,
        competitions: Competitions,
        datasets: DataSets,
        sessions: Sessions,
        *,
        limits: KernelLimits,
        mounts: Mounts,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._competitions = competitions
        self._datasets = datasets
        self._sessions = sessions
        self._limits = limits
        self._mounts = mounts
        self._now = now

    def save_kernel(self, request: Request, base: str) -> Answer:
        slug, title = self._checked_name(request)
        text = text_of(request, "text")
        if len(text.encode()) > self._limits.source_bytes:
            raise Refused(400, f"The kernel source must not exceed {self._limits.source_bytes} bytes")
        if (text_of(request, "language"), text_of(request, "kernelType")) != ("python", "script"):
            raise Refused(400, "A rehearsal runs Python scripts only")
        sources, inputs = self._sources(request)
        with self._store.change() as state:
            if slug not in state.kernels and _slugify(title) != slug:
                slug = _slugify(title)  # Kaggle names a new kernel by its title
            kernel = state.kernels.setdefault(slug, Kernel(id=len(state.kernels) + 1, title=title))
            wanted = request.get("sessionTimeoutSeconds") or self._limits.session_seconds
            version = Version(
                number=len(kernel.versions) + 1,
                time=self._now(),
                internet=request.get("enableInternet") is not False,  # left out it is on
                gpu=request.get("enableGpu") is True,
                limit=min(float(wanted), self._limits.session_seconds),
                sources=sources,
                inputs=inputs,
            )
            folder = self._store.version(slug, version.number)
            shutil.rmtree(folder, ignore_errors=True)  # what a server left that died before it wrote its state
            write_text(folder / "script.py", text)
            kernel.versions.append(version)
        self._run(version, folder)
        return {
            "ref": f"/code/{USER}/{slug}",
            "url": f"{base}/code/{USER}/{slug}",
            "versionNumber": version.number,
            "error": "",
            "kernelId": kernel.id,
            **{
                invalid: [source for source in _texts(request, kind) if source not in sources[kind]]
                for kind, invalid in _SOURCES.items()
            },
        }

    def get_kernel(self, request: Request, base: str) -> Answer:
        slug, version, kernel = self._find(request)
        script = self._store.version(slug, version.number) / "script.py"
        kind = {"slug": slug, "language": "python", "kernelType": "script"}
        return {
            "metadata": {
                **kind,
                "id": kernel.id,
                "ref": f"{USER}/{slug}",
                "title": kernel.title,
                "author": USER,
                "isPrivate": True,
                **version.sources,
                "currentVersionNumber": len(kernel.versions),
            },
            "blob": {**kind, "source": script.read_text("utf-8")},
        }

    def get_kernel_session_status(self, request: Request, _base: str) -> Answer:
        with self._store.read():
            _, version, _ = self._find(request)
            return {"status": version.state, "failureMessage": version.failure}

    def list_kernel_session_output(self, request: Request, base: str) -> Answer:
        slug, version, _ = self._find(request)
        names, token = page(list(self.output_files(version)), request)
        folder = f"/output/{slug}/{version.number}"
        log = self._store.version(slug, version.number) / "log.txt"
        return {
            "files": [{"url": base + self._store.sign(f"{folder}/{quote(name)}"), "fileName": name} for name in names],
            "log": _log(log.read_text("utf-8")) if log.is_file() else "",
            "nextPageToken": token,
        }

    def get_accelerator_quota_statistics(self, _request: Request, _base: str) -> Answer:
        with self._store.read() as state:
            versions = [version for kernel in state.kernels.values() for version in kernel.versions]
        used = sum(version.seconds for version in versions if version.gpu)
        return {
            "quotaRefreshTime": stamp(self._now() + timedelta(days=7)),
            "gpuQuota": {"timeUsed": f"{int(used)}s", "totalTimeAllowed": f"{self._limits.gpu_seconds}s"},
        }

    def create_code_submission(self, request: Request, _base: str) -> Answer:
        """Run the kernel's version again, on the hidden test data, and score the file that it leaves."""
        hosted = self._competitions.enter(text_of(request, "competitionName"))
        name = text_of(request, "fileName") or "submission.csv"
        owner, slug = text_of(request, "kernelOwner"), text_of(request, "kernelSlug")
        if owner != USER:
            deny("kernels.get")
        with self._store.change() as state:
            kernel = state.kernels.get(slug)
            number = request.get("kernelVersion")
            if kernel is None or not isinstance(number, int) or not 1 <= number <= len(kernel.versions):
                raise Refused(404, f"Notebook {owner}/{slug} has no version {number}")
            version = kernel.versions[number - 1]
            if version.state != "COMPLETE" or name not in self.output_files(version):
                raise Refused(400, f"Version {number} of the Notebook has not left the output file {name}")
            submission = self._competitions.add(state, hosted, request, file_name=name)
        folder = self._store.submission(submission.ref)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        script = shutil.copyfile(self._store.version(slug, number) / "script.py", folder / "script.py")
        inputs = dict(version.inputs)
        mount = self._mount("competitions", "", hosted.slug)
        if mount in inputs and hosted.hidden_test is not None:
            inputs[mount] = str(hosted.hidden_test)

        def end(result: KernelResult) -> None:
            write_text(folder / "log.txt", result.log)
            found = result.output / name
            with self._store.change():
                if result.state != "COMPLETE":
                    submission.status, submission.error = "ERROR", f"Notebook Threw Exception: {result.failure}"
                elif found.is_symlink() or not found.is_file():
                    submission.status, submission.error = "ERROR", f"Submission file not found: {name}"
                else:
                    submission.size = found.stat().st_size
                    self._competitions.judge(submission, hosted, found)

        self._sessions.start(
            Path(script), inputs=inputs, folder=folder / "session", internet=False, seconds=version.limit, end=end
        )
        return {"message": f"Successfully submitted to {hosted.slug}", "ref": submission.ref}

    def output_of(self, slug: str, number: str) -> dict[str, Path]:
        """Name → path of what a version left; nothing of one that is not there."""
        with self._store.read() as state:
            kernel = state.kernels.get(slug)
            if kernel is None or not number.isdecimal() or not 1 <= int(number) <= len(kernel.versions):
                return {}
            return self.output_files(kernel.versions[int(number) - 1])

    def output_files(self, version: Version) -> dict[str, Path]:
        """Name → path of a session's output, sorted by name; a session that overran its limit has none."""
        if not version.output:
            return {}
        folder = Path(version.output)
        files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        return dict(sorted((path.relative_to(folder).as_posix(), path) for path in files))

    def _run(self, version: Version, folder: Path) -> None:
        def begin() -> None:
            with self._store.change():
                version.state = "RUNNING"

        def end(result: KernelResult) -> None:
            write_text(folder / "log.txt", result.log)
            overran = result.state == "ERROR" and result.seconds >= version.limit
            with self._store.change():
                version.state, version.failure, version.seconds = result.state, result.failure, result.seconds
                version.output = "" if overran else str(result.output)

        self._sessions.start(
            folder / "script.py",
            inputs=version.inputs,
            folder=folder / "session",
            internet=version.internet,
            seconds=version.limit,
            begin=begin,
            end=end,
        )

    def _checked_name(self, request: Request) -> tuple[str, str]:
        owner, _, slug = text_of(request, "slug").rpartition("/")
        title = text_of(request, "newTitle") or slug
        if owner != USER:
            deny("kernels.update")
        if len(title) < 5 or len(_slugify(title)) < 5:
            raise Refused(400, "Title must be at least five characters")
        if len(slug) < 5 or _slugify(slug) != slug:
            raise Refused(400, "Kernel slug must be at least five characters, of a-z, 0-9 and -")
        return slug, title

    def _sources(self, request: Request) -> tuple[dict[str, list[str]], dict[str, str]]:
        """Of the sources that are asked for those that are there, and mount → folder of each."""
        sources: dict[str, list[str]] = {}
        inputs: dict[str, str] = {}
        for kind in _SOURCES:
            found = {source: self._input(kind, source) for source in _texts(request, kind)}
            sources[kind] = [source for source, mounted in found.items() if mounted]
            inputs.update(mounted for mounted in found.values() if mounted)
        return sources, inputs

    def _input(self, kind: str, source: str) -> tuple[str, str] | None:
        """Mount and folder of one source; None where it is not there."""
        owner, _, slug = source.partition("/")
        if kind == "competitionDataSources":
            try:
                return self._mount("competitions", "", source), str(self._competitions.enter(source).data)
            except Refused:
                return None
        if kind == "datasetDataSources":
            folder = self._datasets.folder_of(source)
            return (self._mount("datasets", owner, slug.split("/")[0]), str(folder)) if folder else None
        if kind == "kernelDataSources" and owner == USER:
            output = self._latest_output(slug)
            return (self._mount("notebooks", owner, slug), output) if output else None
        return None

    def _mount(self, kind: str, owner: str, slug: str) -> str:
        if self._mounts == "old":
            return slug
        return "/".join(part for part in (kind, owner, slug) if part)

    def _latest_output(self, slug: str) -> str:
        with self._store.read() as state:
            versions = state.kernels[slug].versions if slug in state.kernels else []
            return next((version.output for version in reversed(versions) if version.state == "COMPLETE"), "")

    def _find(self, request: Request) -> tuple[str, Version, Kernel]:
        """The kernel that is asked for: its latest version, or the one that a label `v2` names (kaggle-cli #1200)."""
        slug, label = text_of(request, "kernelSlug"), text_of(request, "versionLabel")
        with self._store.read() as state:
            kernel = state.kernels.get(slug)
            if kernel is None or text_of(request, "userName") != USER:
                deny("kernels.get")
            for version in reversed(kernel.versions):
                if label in ("", f"v{version.number}"):
                    return slug, version, kernel
        raise Refused(404, f"{slug} has no version {label}")


def _texts(request: Request, name: str) -> list[str]:
    return [value for value in request.get(name) or [] if isinstance(value, str)]


def _slugify(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _log(text: str) -> str:
    """A log as Kaggle serves it: JSON, an entry a line."""
    return json.dumps(
        [{"stream_name": "stdout", "time": 0.0, "data": line} for line in text.splitlines(keepends=True)],
    )
