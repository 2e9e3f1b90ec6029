"""Competitions over the wire: what they are, their data, submissions and scores."""

import hashlib
import time
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote

from pipeline.artifacts import atomic_path
from pipeline.rehearsal.hosted import Hosted
from pipeline.rehearsal.state import State, Store, Submission
from pipeline.rehearsal.wire import USER, Answer, Redirect, Refused, Request, deny, page, stamp, text_of


class Competitions:
    def __init__(
        self, store: Store, hosted: Mapping[str, Hosted], *, now: Callable[[], datetime], scoring_seconds: float
    ) -> None:
        self._store = store
        self._hosted = hosted
        self._now = now
        self._scoring_seconds = scoring_seconds
        self._packing = Lock()

    def enter(self, slug: str) -> Hosted:
        """The competition, for somebody who has accepted its rules.

        Raises:
            Refused: There is none, or the rules are not accepted: Kaggle answers both alike.
        """
        hosted = self._hosted.get(slug)
        if hosted is None or not hosted.entered:
            deny("competitions.participate")
        return hosted

    def get_competition(self, request: Request, base: str) -> Answer:
        hosted = self._hosted.get(text_of(request, "competitionName"))
        if hosted is None:
            deny("competitions.get")
        return {
            "id": 1 + sorted(self._hosted).index(hosted.slug),
            "ref": f"{base}/competitions/{hosted.slug}",
            "url": f"{base}/competitions/{hosted.slug}",
            "title": hosted.slug,
            "category": "Rehearsal",
            "deadline": "2100-01-01T00:00:00.000Z",
            "userHasEntered": hosted.entered,
            "maxDailySubmissions": hosted.daily_limit,
            "evaluationMetric": hosted.metric.name,
            "isKernelsSubmissionsOnly": hosted.code_only,
            "submissionsDisabled": False,
        }

    def list_data_files(self, request: Request, _base: str) -> Answer:
        hosted = self.enter(text_of(request, "competitionName"))
        names, token = page(list(self.data_files(hosted)), request)
        files = []
        for name in names:
            facts = (hosted.data / name).stat()
            created = stamp(datetime.fromtimestamp(facts.st_mtime, UTC))
            files.append({"name": name, "totalBytes": facts.st_size, "creationDate": created})
        return {"files": files, "nextPageToken": token}

    def download_data_files(self, request: Request, base: str) -> Redirect:
        slug = self.enter(text_of(request, "competitionName")).slug
        return Redirect(base + self._store.sign(f"/storage/{slug}.zip"))

    def download_data_file(self, request: Request, base: str) -> Redirect:
        hosted = self.enter(text_of(request, "competitionName"))
        name = text_of(request, "fileName")
        if name not in self.data_files(hosted):
            raise Refused(404, f"{hosted.slug} has no file {name}")
        return Redirect(base + self._store.sign(f"/storage/{hosted.slug}/{quote(name)}"))

    def data_files(self, hosted: Hosted) -> dict[str, Path]:
        """Name → path of every file of the data, sorted by name."""
        found = {path.relative_to(hosted.data).as_posix(): path for path in hosted.data.rglob("*") if path.is_file()}
        return dict(sorted(found.items()))

    def archive(self, hosted: Hosted) -> Path:
        """The data as one zip; packed when it is first asked for, and again when the data have changed."""
        files = self.data_files(hosted)
        facts = [(name, path.stat().st_size, path.stat().st_mtime_ns) for name, path in files.items()]
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        archive = self._store.folder / "archives" / f"{hosted.slug}-{digest}.zip"
        with self._packing:
            if not archive.exists():
                # Pictures are packed already.
                with (
                    atomic_path(archive) as temporary,
                    zipfile.ZipFile(temporary, "w", strict_timestamps=False) as file,
                ):
                    for name, path in files.items():
                        file.write(path, name)
        return archive

    def create_submission(self, request: Request, _base: str) -> Answer:
        hosted = self.enter(text_of(request, "competitionName"))
        if hosted.code_only:
            raise Refused(400, "This competition only accepts Submissions from Notebooks.")
        token = text_of(request, "blobFileTokens")
        with self._store.change() as state:
            blob = state.blobs.get(token)
            path = self._store.blob(token)
            if blob is None or blob.purpose != hosted.slug or not path.is_file() or path.stat().st_size != blob.size:
                raise Refused(400, "Submission file not found, or its upload is not complete.")
            submission = self.add(state, hosted, request, file_name=blob.name, size=blob.size)
            self.judge(submission, hosted, path)
        return {"message": f"Successfully submitted to {hosted.slug}", "ref": submission.ref}

    def add(self, state: State, hosted: Hosted, request: Request, *, file_name: str, size: int = 0) -> Submission:
        """Take a submission, pending.

        Raises:
            Refused: None is left today.
        """
        if self._left(state, hosted) < 1:
            raise Refused(400, f"Your team has used its daily Submission allowance ({hosted.daily_limit}) today (UTC).")
        submission = Submission(
            ref=len(state.submissions) + 1,
            competition=hosted.slug,
            time=self._now(),
            description=text_of(request, "submissionDescription"),
            file_name=file_name,
            size=size,
            seen_at=time.time() + self._scoring_seconds,
        )
        state.submissions.append(submission)
        return submission

    def judge(self, submission: Submission, hosted: Hosted, path: Path) -> None:
        """Score it. What cannot be scored is taken all the same, and ends in an error, as on Kaggle."""
        try:
            score = hosted.score(path)
        except ValueError as error:
            submission.status, submission.error = "ERROR", str(error)
        else:
            submission.status, submission.public, submission.private = "COMPLETE", score.public, score.private

    def list_submissions(self, request: Request, _base: str) -> Answer:
        slug = self.enter(text_of(request, "competitionName")).slug
        with self._store.read() as state:
            newest_first = [found for found in reversed(state.submissions) if found.competition == slug]
            shown, token = page(newest_first, request)
            return {"submissions": [_shown(submission) for submission in shown], "nextPageToken": token}

    def get_submission(self, request: Request, _base: str) -> Answer:
        with self._store.read() as state:
            for submission in state.submissions:
                if submission.ref == request.get("ref"):
                    return _shown(submission)
        raise Refused(404, "Submission not found")

    def get_submission_limits(self, request: Request, _base: str) -> Answer:
        hosted = self.enter(text_of(request, "competitionName"))
        with self._store.read() as state:
            total = sum(submission.competition == hosted.slug for submission in state.submissions)
            return {
                "numToday": self._today(state, hosted),
                "numTotal": total,
                "numAllowedNow": self._left(state, hosted),
                "limitedByTotal": False,
            }

    def _today(self, state: State, hosted: Hosted) -> int:
        day = self._now().astimezone(UTC).date()
        return sum(
            submission.competition == hosted.slug and submission.time.astimezone(UTC).date() == day
            for submission in state.submissions
        )

    def _left(self, state: State, hosted: Hosted) -> int:
        return max(0, hosted.daily_limit - self._today(state, hosted))


def _shown(submission: Submission) -> dict[str, Any]:
    status = submission.status if time.time() >= submission.seen_at else "PENDING"
    done = status == "COMPLETE"
    return {
        "ref": submission.ref,
        "totalBytes": submission.size,
        "date": stamp(submission.time),
        "description": submission.description,
        "errorDescription": submission.error if status == "ERROR" else "",
        "fileName": submission.file_name,
        # Scores travel as text.
        "publicScore": f"{submission.public:.5f}" if done else "",
        "privateScore": f"{submission.private:.5f}" if done else "",
        "status": status,
        "submittedBy": USER,
        "teamName": USER,
    }
