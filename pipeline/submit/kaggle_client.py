"""Kaggle: the one door to Kaggle's API, over the real `kaggle` package, and the only importer of it.

The package brings the credentials, the requests and their addresses, the download that resumes and the reading of a
kernel's folder. What it lacks is added: time limits, bounded repeats, answers without surprise, errors that say what
to do, silence, and nothing done twice.
"""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from enum import Enum
from fnmatch import fnmatch
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import requests

from pipeline.progress import Progress
from pipeline.submit import kaggle_datasets, kaggle_kernels
from pipeline.submit.kaggle_answers import (
    CompetitionInfo,
    KernelStatus,
    Limits,
    PushedKernel,
    Quota,
    RemoteFile,
    RemoteSubmission,
    plain_log,
    state,
)
from pipeline.submit.kaggle_errors import (
    InvalidKernel,
    KaggleError,
    NoAccess,
    NotSeen,
    Refused,
    Unreachable,
    bad_answer,
    no_credentials,
    translated,
)
from pipeline.submit.kaggle_retry import Patience, Retry
from pipeline.submit.kaggle_session import Json, Session, TimeLimit, prepared
from pipeline.submit.kaggle_shapes import Answer, problem_with
from pipeline.submit.kaggle_transfer import inside, writing

_MODULES = {
    "blobs": "blob_api_service",
    "competitions": "competition_api_service",
    "datasets": "dataset_api_service",
    "kernels": "kernels_api_service",
}
"""Where `kagglesdk` keeps the messages of a service."""


_LAST_VERSIONS = 5
"""So many versions of a kernel are looked through for one whose answer was lost: others may have been pushed since."""


class Kaggle:
    """A user's connection to Kaggle, or to a rehearsal.

    Every method raises `NoCredentials` where Kaggle does not take the token, `RateLimited` and `Unreachable` after as
    many attempts as were asked for, `NoAccess` for what is not there or not for the user (`RulesNotAccepted` where it
    is known that it is this), and `KaggleError` for anything else.

    Attributes:
        user: Name of the user.
        server: `kaggle.com` or `rehearsal`.
    """

    def __init__(self, session: Session, *, user: str, server: str) -> None:
        self.user = user
        self.server = server
        self._session = session

    @classmethod
    def connect(cls, *, timeout: float = 60, attempts: int = 5, sleep: Callable[[float], None] = time.sleep) -> Self:
        """Find the credentials and try them.

        Args:
            timeout: Seconds the server may stay silent, in any request.
            attempts: How often a request is sent in all, where repeating it is safe.
            sleep: Waits for so many seconds between attempts.

        Raises:
            NoCredentials: There are none, or Kaggle does not take them.
        """
        local = os.environ.get("KAGGLE_API_ENVIRONMENT") == "LOCALHOST"
        name = "the rehearsal" if local else "kaggle.com"
        retry = Retry(attempts, sleep, Patience(timeout))
        with _silence():
            api = _make_api(_import_api(), retry.patience, name, local=local)
        session = Session(api, _message, name, retry)
        retry(lambda: _sign_in(api, name))
        return cls(session, user=api.config_values.get("username") or "", server="rehearsal" if local else name)

    def until(self, end: float) -> AbstractContextManager[None]:
        """In the block what is asked is given up at `end`, by the monotonic clock, give or take a second."""
        return self._session.retry.patience.until(end)

    def competition(self, slug: str) -> CompetitionInfo:
        with self._session.at_competition(slug):
            answer = self._session.ask("competitions", "GetCompetition", competition_name=slug)
        return CompetitionInfo.read(slug, answer)

    def data_files(self, slug: str) -> list[RemoteFile]:
        """Every file of the competition's data."""
        with self._session.at_competition(slug):
            pages = self._session.pages("competitions", "ListDataFiles", competition_name=slug)
            return [RemoteFile.read(file) for page in pages for file in page.get("files") or []]

    def download(self, slug: str, folder: Path, *, progress: bool) -> Path:
        """Download the competition's data as `<folder>/<slug>.zip`, going on where an earlier call broke off.

        The file has the right size; whether it has the right bytes is for the caller to check, and to delete it
        where it has not. A complete file that is no older than the server's is not downloaded again. For one process
        at a time.
        """
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{slug}.zip"
        with self._session.at_competition(slug):
            self._session.retry(lambda: self._download(slug, target, progress=progress))
        return target

    def limits(self, slug: str) -> Limits:
        with self._session.at_competition(slug):
            return Limits.read(self._session.ask("competitions", "GetSubmissionLimits", competition_name=slug))

    def submit(self, slug: str, file: Path, *, description: str) -> int:
        """Submit a CSV.

        Args:
            description: Text that no other submission has: by it the submission is found where its answer was lost.

        Returns:
            The submission's number on the server.

        Raises:
            DailyLimit: No submission is left.
            UploadFailed: The file did not get through.
            OutcomeUnknown: The answer was lost, and the submission is not to be seen: it may or may not have been
                made, and is not sent again. With any other error it was not made.
        """
        with self._session.at_competition(slug), self._session.at_limit(slug):
            token = self._session.upload(
                file, "competitions", "StartSubmissionUpload", competition_name=slug, file_name=file.name
            )
            return self._create_submission(slug, "CreateSubmission", description, blob_file_tokens=token)

    def submit_kernel(self, slug: str, kernel: str, version: int, *, file_name: str, description: str) -> int:
        """Submit the file `file_name` that `version` of the kernel `owner/slug` writes; as `submit` otherwise."""
        owner, name = kaggle_kernels.split(kernel)
        with self._session.at_competition(slug), self._session.at_limit(slug):
            return self._create_submission(
                slug,
                "CreateCodeSubmission",
                description,
                kernel_owner=owner,
                kernel_slug=name,
                kernel_version=version,
                file_name=file_name,
            )

    def submissions(self, slug: str) -> list[RemoteSubmission]:
        """Every submission of the user's team, the newest first."""
        with self._session.at_competition(slug):
            pages = self._session.pages("competitions", "ListSubmissions", competition_name=slug)
            return [RemoteSubmission.read(entry) for page in pages for entry in page.get("submissions") or []]

    def submission(self, ref: int) -> RemoteSubmission:
        found = RemoteSubmission.read(self._session.ask("competitions", "GetSubmission", ref=ref))
        if found.ref != ref:
            raise bad_answer("GetSubmission", f"with submission {found.ref}, not {ref}", server=self._session.server)
        return found

    def push_kernel(self, folder: Path, *, session_seconds: int | None = None, build: str = "") -> PushedKernel:
        """Push the kernel in `folder`, which starts it.

        Args:
            session_seconds: How long it may run; Kaggle's own limit by default.
            build: Text in its code that no other version has; by it the version is found where its answer was lost.

        Raises:
            InvalidKernel, SourceTooLarge: The folder does not hold.
            SourceDropped: Kaggle dropped one of the kernel's sources, and runs it without.
            GpuQuota, GpuBusy: There is no GPU for it now.
            OutcomeUnknown: It may or may not have been pushed.
        """
        metadata = kaggle_kernels.read(folder)
        ref = metadata["id"]
        try:
            before = self.kernel_version(ref)
        except NoAccess:
            before = 0

        code = build or (folder / str(metadata["code_file"])).read_text("utf-8").strip()

        def find() -> Answer | None:
            kernel = self._version_with(ref, code, since=before)
            return None if kernel is None else kaggle_kernels.found(metadata, kernel)

        what = f"a version of the kernel {ref}"
        answer = self._session.retry.once(lambda: self._save_kernel(folder, session_seconds), find=find, what=what)
        return kaggle_kernels.pushed(ref, answer)

    def find_version(self, ref: str, build: str) -> int | None:
        """Number of the kernel's version whose code has `build` in it; None if no recent one is seen to have it."""
        kernel = self._version_with(ref, build, since=None)
        return None if kernel is None else kaggle_kernels.version(kernel)

    def kernel_status(self, ref: str, version: int | None = None) -> KernelStatus:
        """How a version of the kernel is doing, the latest by default.

        Raises:
            NoAccess: There is no such kernel, or Kaggle tells nothing of this version of it.
        """
        method = "GetKernelSessionStatus"
        try:
            answer = self._kernel(method, ref, **kaggle_kernels.labelled(version))
        except NoAccess as refusal:
            # Should Kaggle not take the label: what it says is of the latest version.
            if version is None or self.kernel_version(ref) != version:
                raise refusal from None
            answer = self._kernel(method, ref)
        return KernelStatus(state(answer, first="QUEUED"), str(answer.get("failureMessage") or ""))

    def kernel_version(self, ref: str) -> int:
        """Number of the kernel's latest version."""
        return kaggle_kernels.version(self._kernel("GetKernel", ref).get("metadata") or {})

    def kernel_output(self, ref: str, folder: Path, *, progress: bool, only: str = "*") -> str:
        """Download what the kernel's latest version left into `folder`, and return what it wrote while it ran.

        Args:
            only: Pattern of the files to download, by their names with folders.

        Raises:
            KaggleError: The name of a file leads out of `folder`; nothing is downloaded.
        """
        owner, slug = kaggle_kernels.split(ref)
        pages = list(self._session.pages("kernels", "ListKernelSessionOutput", user_name=owner, kernel_slug=slug))
        files = [file for page in pages for file in page.get("files") or []]
        targets = [(file["url"], inside(folder, file["fileName"])) for file in files]
        targets = [found for found, file in zip(targets, files, strict=True) if fnmatch(file["fileName"], only)]
        for address, target in Progress(targets, desc=slug, unit="file", disable=not progress or None):
            self._session.fetch(address, target)
        return plain_log(next((str(page["log"]) for page in pages if page.get("log")), ""))

    def quota(self) -> Quota:
        return Quota.read(self._session.ask("kernels", "GetAcceleratorQuotaStatistics"))

    def dataset_status(self, ref: str) -> str | None:
        """Status of the data set `owner/slug` in Kaggle's words, READY at the end; None where there is none."""
        return kaggle_datasets.status(self._session, ref)

    def upload_dataset(self, folder: Path, *, ref: str, title: str, notes: str, progress: bool) -> None:
        """Upload the files of `folder` as a new private data set, or as a new version of the one there is.

        Args:
            ref: `owner/slug`.
            title: Of a new one; a data set keeps the one it has.
            notes: What is new in this version.

        Raises:
            UploadFailed: A file did not get through; nothing was made of the others.
            OutcomeUnknown: It may or may not have been made; doing it again does no harm.
        """
        kaggle_datasets.upload(self._session, folder, ref=ref, title=title, notes=notes, progress=progress)

    def _create_submission(self, slug: str, method: str, description: str, **fields: object) -> int:
        def create() -> int:
            answer = self._session.call(
                "competitions", method, competition_name=slug, submission_description=description, **fields
            )
            ref = RemoteSubmission.read(answer).ref
            if ref < 1 and not answer.get("message"):
                raise bad_answer(method, "without the submission's number", server=self._session.server)
            if ref < 1:
                raise NotSeen(
                    f"no submission to {slug} was made: {answer.get('message') or 'Kaggle does not say why'}",
                    expected="a submission with a number",
                    next_step=f"see https://www.kaggle.com/c/{slug}/submissions",
                )
            return ref

        def find() -> int | None:
            return next((made.ref for made in self.submissions(slug) if description in made.description), None)

        return self._session.retry.once(
            create,
            find=find,
            what=f"a submission to {slug}",
            settle=f"kit submit --sync --competition {slug} looks for it again, and sends nothing",
        )

    def _kernel(self, method: str, ref: str, **fields: object) -> Answer:
        owner, slug = kaggle_kernels.split(ref)
        return self._session.ask("kernels", method, user_name=owner, kernel_slug=slug, **fields)

    def _version_with(self, ref: str, code: str, *, since: int | None) -> Answer | None:
        """What is known of the newest of the kernel's last versions whose code has `code` in it.

        Args:
            since: The version before; one after it whose code Kaggle does not show is taken for it. None: it is not
                known, and such a one is not.
        """
        number, newest = None, 0
        while number is None or number > max(since or 0, newest - _LAST_VERSIONS):
            try:
                kernel = self._kernel("GetKernel", ref, **kaggle_kernels.labelled(number))
            except NoAccess:
                return None
            if number is None:
                number = newest = kaggle_kernels.version(kernel["metadata"])
                if newest <= (since or 0):
                    return None
            source = (kernel.get("blob") or {}).get("source")
            if code in source if source else since is not None:
                return {**kernel["metadata"], "currentVersionNumber": number}
            number -= 1
        return None

    def _save_kernel(self, folder: Path, session_seconds: int | None) -> Answer:
        limit = None if session_seconds is None else str(session_seconds)
        try:
            with translated("SaveKernel", server=self._session.server), redirect_stdout(io.StringIO()):
                answer: Answer = self._session.api.kernels_push(str(folder), timeout=limit)
        except ValueError as error:
            raise InvalidKernel(
                f"{folder} cannot be pushed: {error}", expected="a kernel that Kaggle takes", next_step="mend it"
            ) from None
        self._session.checked("SaveKernel", answer)
        if not answer.get("error") and kaggle_kernels.number(answer) < 1:
            raise bad_answer("SaveKernel", "without the number of a version", server=self._session.server)
        return answer

    def _download(self, slug: str, target: Path, *, progress: bool) -> None:
        """One attempt. The real client keeps what it got, and beside it whose bytes these are, and resumes."""
        api, request = self._session.api, _message("competitions", "ApiDownloadDataFilesRequest", competition_name=slug)
        try:
            with (
                writing(target),
                translated("the download", server=self._session.server),
                api.build_kaggle_client() as client,
                client.competitions.competition_api_client.download_data_files(request) as answer,
                redirect_stdout(io.StringIO()),  # it tells of retries; its bar is on stderr
            ):
                if not _is_current(api, answer, target):
                    api.download_file(
                        answer,
                        str(target),
                        client.http_client(),
                        quiet=not (progress and sys.stderr.isatty()),
                        resume=True,
                        max_retries=0,  # retrying is ours
                        timeout=self._session.timeout,
                    )
        except ValueError:
            # The size is wrong: the text of an error stands in the place of data, and must not be appended to.
            target.unlink(missing_ok=True)
            raise Unreachable(
                f"{target.name} did not come whole", expected="all of it", next_step="run the command again"
            ) from None
        with target.open("rb") as file:
            start = file.read(2)
        if start != b"PK":  # as every zip does
            target.unlink()
            how = "with a page or a message in the place of a zip"
            raise bad_answer("the download", how, server=self._session.server)


def credentials_here() -> str | None:
    """Where the real client would find credentials: a variable or a file, by name; None if there are none.

    In its order, and without importing it, which makes a folder.
    """
    home = Path("~/.kaggle").expanduser()
    elsewhere = Path(os.environ.get("XDG_CONFIG_HOME") or home.parent / ".config") / "kaggle"
    config = Path(os.environ.get("KAGGLE_CONFIG_DIR") or (home if home.exists() else elsewhere))
    variables, files = os.environ.keys(), [home / "access_token", home / "access_token.txt"]
    if os.environ.get("KAGGLE_API_TOKEN"):
        return "the variable KAGGLE_API_TOKEN"
    if not any(map(_is_filled, files)) and variables >= {"KAGGLE_USERNAME", "KAGGLE_KEY"}:
        return "the variables KAGGLE_USERNAME and KAGGLE_KEY"
    files += [config / "kaggle.json", home / "credentials.json"]
    return next((str(file) for file in files if _is_filled(file)), None)


def _is_filled(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _is_current(api: Any, answer: Any, target: Path) -> bool:
    """Whether the file is there already, whole. The real client takes one that is too long for whole, too."""
    size = int(answer.headers.get("Content-Length") or -1)
    return target.is_file() and target.stat().st_size == size and not api.download_needed(answer, str(target))


def _message(service: str, name: str, /, **fields: Any) -> Any:
    """A message of the protocol, which knows its fields and their types; an enum is given by name."""
    message = getattr(import_module(f"kagglesdk.{service}.types.{_MODULES[service]}"), name)()
    for field, value in fields.items():
        default = getattr(message, field)
        setattr(message, field, type(default)[value] if isinstance(default, Enum) else value)
    return message


def _import_api() -> Any:
    """The class of the real client, without the sign-in that importing it makes: that one has no time limit."""
    try:
        from kagglesdk.kaggle_http_client import KaggleHttpClient

        def offline(*_: object) -> None:
            raise requests.ConnectionError

        call, KaggleHttpClient.call = KaggleHttpClient.call, offline
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi
        finally:
            KaggleHttpClient.call = call
    except (ImportError, OSError) as error:
        raise KaggleError(
            f"the package kaggle cannot be imported: {error}",
            expected="kaggle as the kit installs it, and a folder it may keep its settings in",
            next_step="pip install 'kaggle>=2.2.5,<3'; KAGGLE_CONFIG_DIR names the folder",
        ) from None
    return KaggleApi


def _make_api(real: Any, patience: Patience, server: str, *, local: bool) -> Any:
    """The real client, with time limits, answers that are checked, and without what it prints."""

    class Api(real):
        # Its own were read from the environment once, at import; with --verbose among them it prints the token.
        args: list[str] = ["--local"] if local else []

        def build_kaggle_client(self) -> Any:
            client = super().build_kaggle_client()
            http = client.http_client()
            http._init_session()
            for scheme in ("http://", "https://"):
                http._session.mount(scheme, TimeLimit(patience))
            http._prepare_response = partial(prepared, http._prepare_response)
            return client

        def _introspect_token(self, access_token: str) -> str | None:
            return _introspected(self, access_token, server)

        def get_response_processor(self) -> None:
            return None  # it prints that there is a newer version

    return Api()


def _sign_in(api: Any, server: str) -> None:
    """Let the real client find the credentials, and try a token.

    Where the token fails, the client goes on to the other credentials, and sends the token all the same.
    """
    from kagglesdk import get_access_token_from_env

    try:
        token, source = get_access_token_from_env()
        with _silence(), translated("the sign-in", server=server):
            api.authenticate()
    except SystemExit:
        problem = f"{server} does not take the token in {source}" if token else "there are no credentials for Kaggle"
        raise no_credentials(problem, server=server) from None
    except (KeyError, ValueError, OSError) as error:
        # Their texts may quote the token.
        raise no_credentials(f"the credentials cannot be read ({type(error).__name__})", server=server) from None
    if token and api.config_values.get("token") != token:
        problem = f"{server} does not take the token in {source}, which goes before other credentials"
        raise no_credentials(problem, server=server)


def _introspected(api: Any, token: str, server: str) -> str | None:
    """The user whose token it is; None if Kaggle says that it is nobody's.

    The real client takes a refusal to look at it for a token that is bad: a proxy's 403, an address that is not there.
    """
    from kagglesdk.security.types.oauth_service import IntrospectTokenRequest

    request, name = IntrospectTokenRequest(), "IntrospectToken"
    request.token = token
    try:
        with translated("the sign-in", server=server), api.build_kaggle_client() as client:
            answer = client.http_client().call("security.OAuthService", name, request, Json)
    except NoAccess as refusal:
        raise NoAccess(
            f"{server} does not say whose token it is: {refusal.problem}",
            expected=f"an answer to {name}; this one says nothing about the token",
            next_step="is there a proxy in between, or a firewall? If not, run the command again later",
        ) from None
    except Refused:
        return None
    if problem := problem_with(name, answer):
        raise bad_answer(name, problem, server=server)
    return str(answer["username"]) if answer.get("active") and answer.get("username") else None


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the package prints from the user, and the user's stdin from its `exit()`, which closes it."""
    verbose = {name: os.environ.pop(name) for name in ("VERBOSE", "VERBOSE_OUTPUT") if name in os.environ}
    stdin, sys.stdin = sys.stdin, io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        sys.stdin = stdin
        os.environ.update(verbose)
