"""Kaggle: the one door to Kaggle's API, over the real `kaggle` package, which `kaggle_sign_in.py` alone imports.

The package brings the credentials, the requests and their addresses, the download that resumes and the reading of a
kernel's folder. What it lacks is added: time limits, bounded repeats, answers without surprise, errors that say what
to do, silence, and nothing done twice.
"""

import io
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stdout
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Self

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
    NoAccess,
    NotSeen,
    Unreachable,
    bad_answer,
    translated,
)
from pipeline.submit.kaggle_retry import Patience, Retry
from pipeline.submit.kaggle_session import Session
from pipeline.submit.kaggle_shapes import Answer
from pipeline.submit.kaggle_sign_in import import_api, make_api, message, sign_in, silence
from pipeline.submit.kaggle_transfer import inside, writing

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
        with silence():
            api = make_api(import_api(), retry.patience, name, local=local)
        session = Session(api, message, name, retry)
        retry(lambda: sign_in(api, name))
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
        api, request = self._session.api, message("competitions", "ApiDownloadDataFilesRequest", competition_name=slug)
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


def _is_current(api: Any, answer: Any, target: Path) -> bool:
    """Whether the file is there already, whole. The real client takes one that is too long for whole, too."""
    size = int(answer.headers.get("Content-Length") or -1)
    return target.is_file() and target.stat().st_size == size and not api.download_needed(answer, str(target))
