"""Pushes: what was pushed to Kaggle as a version of which kernel, written down before it is sent.

    kernels/<name>/pushed/<server>/<slug>.json            the version that was pushed last                 (ignored)
    kernels/<name>/pushed/<server>/.<slug>.sending.json   one whose number is not known yet: being pushed,
                                                          or its process was killed                        (ignored)

A push that was killed is found again on Kaggle by its build, whose name is in its code.
"""

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.artifacts import Workspace, lock, read_json, write_json
from pipeline.competition import in_rehearsal
from pipeline.errors import BusyError, DataError, KitError
from pipeline.submit.kaggle_client import Kaggle

LOST_AFTER = timedelta(minutes=2)
"""A push whose process was killed may still be on its way for so long."""


@dataclass(frozen=True)
class Pushed:
    """A version of a kernel on Kaggle.

    Attributes:
        ref: owner/slug.
        name: Of its template.
        folds: Which were to be trained; None for all.
        sha256: Of the code without the build's name, which covers the bundle, too: the same for the same kernel.
        version: 0 while it is being pushed.
        state: What its output said when it was fetched: finished, stopped or failed; empty until then.
    """

    ref: str
    version: int
    url: str
    server: str
    name: str
    competition: str
    experiment: str
    folds: list[int] | None
    build: str
    sha256: str
    time: str
    state: str = ""

    @property
    def slug(self) -> str:
        return self.ref.rpartition("/")[2]

    def output(self, workspace: Workspace) -> Path:
        return workspace.root / "kernels" / self.name / "output" / self.slug

    def record(self, workspace: Workspace) -> Path:
        return _folder(workspace, self.name, self.server) / f"{self.slug}.json"

    def sending(self, workspace: Workspace) -> Path:
        """Its record until its version is known; hidden from `list_pushed`."""
        return _folder(workspace, self.name, self.server) / f".{self.slug}.sending.json"

    def lock(self, workspace: Workspace) -> AbstractContextManager[None]:
        """Held by whoever pushes it, from the question whether it may be to the number of its version.

        Raises:
            BusyError: Another process does.
        """
        return lock(self.record(workspace).with_name(f".{self.slug}.lock"), what=f"pushing {self.slug}")


def list_pushed(name: str, *, workspace: Workspace, server: str) -> list[Pushed]:
    """What was pushed of a template, the newest last.

    Raises:
        DataError: A record is damaged.
    """
    files = _folder(workspace, name, server).glob("[!.]*.json")
    return sorted(map(_read, files), key=lambda pushed: pushed.time)


def find_pushed(name: str, slug: str | None, *, workspace: Workspace, server: str) -> Pushed:
    """What was pushed last of a template, or the kernel with this slug.

    Raises:
        KitError: Nothing was.
    """
    known = list_pushed(name, workspace=workspace, server=server)
    found = [pushed for pushed in known if slug in (None, pushed.slug)]
    if not found:
        problem, ask = f"no kernel {slug or name!r} has been pushed to {server} from here", ""
        rehearsed = list_pushed(name, workspace=workspace, server="rehearsal")
        if rehearsed and server != "rehearsal":
            problem += f", but {rehearsed[-1].slug} was pushed to a rehearsal"
            there = in_rehearsal(f"kit kernel status {name}", rehearsed[-1].competition, root=workspace.root)
            ask = f"ask for that one there: {there}; or push to {server}: "
        raise KitError(
            problem,
            expected="one of " + ", ".join(pushed.slug for pushed in known) if known else "a kernel that was pushed",
            next_step=f"{ask}kit kernel run {name}, or: kit kernel push {name}",
        )
    return found[-1]


def list_sending(name: str, *, workspace: Workspace, server: str) -> list[Path]:
    """Records of pushes of a template of which it is not known whether they arrived."""
    return sorted(_folder(workspace, name, server).glob(".*.sending.json"))


def take_up(kaggle: Kaggle, name: str, *, workspace: Workspace, again: bool = False) -> None:
    """Find out what became of pushes of a template that ended without an answer, and write it down.

    Args:
        again: Do not mind one of which nothing is known yet.

    Raises:
        KitError: Nothing is known yet of one.
    """
    for file in list_sending(name, workspace=workspace, server=kaggle.server):
        pushed = _read(file)
        try:
            with pushed.lock(workspace):
                settle(kaggle, pushed, workspace=workspace, again=again)
        except BusyError:
            continue  # it is being pushed at this moment


def settle(kaggle: Kaggle, pushed: Pushed, *, workspace: Workspace, again: bool) -> None:
    """As `take_up`, of one kernel, whose lock is held."""
    file = pushed.sending(workspace)
    if not file.is_file():
        return
    sending = _read(file)
    version = kaggle.find_version(sending.ref, sending.build)
    if version is not None:
        write_json(sending.record(workspace), asdict(replace(sending, version=version)))
    elif not again and datetime.now(UTC) - datetime.fromisoformat(sending.time) < LOST_AFTER:
        raise KitError(
            f"a push of {sending.ref} ended at {sending.time} without an answer, and its version is not to be seen yet",
            expected="a version that is there, or a while in which none appears",
            next_step=f"look again in {LOST_AFTER.seconds // 60} minutes; it would be at {sending.url}",
        )
    file.unlink()


def _folder(workspace: Workspace, name: str, server: str) -> Path:
    return workspace.root / "kernels" / name / "pushed" / server


def _read(file: Path) -> Pushed:
    try:
        return Pushed(**read_json(file))
    except (OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{file} is damaged: {error}",
            expected="what was pushed, as the kit wrote it",
            next_step="look on Kaggle which version runs, and fetch its output there; then remove the file",
        ) from None
