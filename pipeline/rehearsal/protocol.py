"""The protocol: which method of Kaggle's API is answered by what, and which file lies behind which address."""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

from pipeline.rehearsal.competitions import Competitions
from pipeline.rehearsal.datasets import DataSets
from pipeline.rehearsal.hosted import Hosted
from pipeline.rehearsal.kernel import KernelRunner
from pipeline.rehearsal.kernels import KernelLimits, Kernels, Mounts
from pipeline.rehearsal.sessions import Sessions
from pipeline.rehearsal.state import Store
from pipeline.rehearsal.wire import USER, Answer, Redirect, Refused, Request, text_of

Method = Callable[[Request, str], Answer | Redirect]


class Protocol:
    """Every method, without a word of HTTP."""

    def __init__(
        self,
        store: Store,
        hosted: Mapping[str, Hosted],
        *,
        runner: KernelRunner | None,
        limits: KernelLimits,
        mounts: Mounts,
        scoring_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        self.store = store
        self._hosted = hosted
        self._sessions = Sessions(runner)
        self._datasets = datasets = DataSets(store)
        self._competitions = competitions = Competitions(store, hosted, now=now, scoring_seconds=scoring_seconds)
        self._kernels = kernels = Kernels(
            store, competitions, datasets, self._sessions, limits=limits, mounts=mounts, now=now
        )
        self._methods: dict[str, Method] = {
            "CreateCodeSubmission": kernels.create_code_submission,
            "CreateDataset": datasets.create_dataset,
            "CreateDatasetVersion": datasets.create_dataset_version,
            "CreateSubmission": competitions.create_submission,
            "DownloadDataFile": competitions.download_data_file,
            "DownloadDataFiles": competitions.download_data_files,
            "GetAcceleratorQuotaStatistics": kernels.get_accelerator_quota_statistics,
            "GetCompetition": competitions.get_competition,
            "GetDatasetStatus": datasets.get_dataset_status,
            "GetKernel": kernels.get_kernel,
            "GetKernelSessionStatus": kernels.get_kernel_session_status,
            "GetSubmission": competitions.get_submission,
            "GetSubmissionLimits": competitions.get_submission_limits,
            "IntrospectToken": self._introspect_token,
            "ListDataFiles": competitions.list_data_files,
            "ListKernelSessionOutput": kernels.list_kernel_session_output,
            "ListSubmissions": competitions.list_submissions,
            "SaveKernel": kernels.save_kernel,
            "StartBlobUpload": datasets.start_blob_upload,
            "StartSubmissionUpload": self._start_submission_upload,
        }

    def call(self, name: str, request: Request, base: str) -> Answer | Redirect:
        """Answer one call.

        Args:
            base: Under which address the client knows this server, for the addresses in the answer.

        Raises:
            Refused: It is to be answered with an HTTP error.
        """
        method = self._methods.get(name)
        if method is None:
            raise Refused(404, f"A rehearsal knows no method {name}")
        return method(request, base)

    def file_at(self, path: str) -> Path | None:
        """The file behind an address below /storage or /output; None where there is none."""
        place, _, rest = unquote(path).lstrip("/").partition("/")
        if place == "output":
            slug, number, name = (*rest.split("/", 2), "", "")[:3]
            return self._kernels.output_of(slug, number).get(name)
        if place != "storage":
            return None
        slug, _, name = rest.partition("/")
        hosted = self._hosted.get(slug if name else slug.removesuffix(".zip"))
        if hosted is None or not hosted.entered:
            return None
        return self._competitions.data_files(hosted).get(name) if name else self._competitions.archive(hosted)

    def stop(self) -> None:
        self._sessions.stop()

    def _introspect_token(self, request: Request, _base: str) -> Answer:
        if self.store.is_token(text_of(request, "token")):
            return {"active": True, "username": USER, "userId": 1}
        return {"active": False}

    def _start_submission_upload(self, request: Request, base: str) -> Answer:
        hosted = self._competitions.enter(text_of(request, "competitionName"))
        return self._datasets.start_upload(text_of(request, "fileName"), request, base, purpose=hosted.slug)
