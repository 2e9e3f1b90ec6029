"""Session: one call to Kaggle and its answer, with a time limit, repeated where that is safe, refusals explained.

Which calls there are belongs to `kaggle_client.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from pipeline.submit.kaggle_answers import Answer, Limits
from pipeline.submit.kaggle_errors import KaggleError, NoAccess, Refused, no_entry, none_left, translated
from pipeline.submit.kaggle_retry import Retry
from pipeline.submit.kaggle_transfer import fetch, upload

_PAGE = 100
_SERVICES = {
    "blobs": "blobs.BlobApiService",
    "competitions": "competitions.CompetitionApiService",
    "datasets": "datasets.DatasetApiService",
    "kernels": "kernels.KernelsApiService",
}


@dataclass(frozen=True)
class Session:
    """What every call needs.

    Attributes:
        api: The real client, signed in.
        message: Makes a message of the protocol: of a service, by name, with fields.
        server: Who is called, as a message names it.
        timeout: Seconds the server may stay silent.
        retry: How often a call is repeated, where that is safe.
    """

    api: Any
    message: Callable[..., Any]
    server: str
    timeout: float
    retry: Retry

    def call(self, service: str, method: str, /, **fields: object) -> Answer:
        """One request, and the JSON of its answer."""
        request = self.message(service, f"Api{method}Request", **fields)
        with translated(method, server=self.server), self.api.build_kaggle_client() as client:
            answer: Answer = client.http_client().call(_SERVICES[service], method, request, _Json)
        return answer

    def ask(self, service: str, method: str, /, **fields: object) -> Answer:
        """A call that is safe to repeat."""
        return self.retry(lambda: self.call(service, method, **fields))

    def pages(self, service: str, method: str, /, **fields: object) -> Iterator[Answer]:
        """Every page of a list."""
        token, seen = "", set[str]()
        while token not in seen:
            seen.add(token)
            answer = self.ask(service, method, page_size=_PAGE, page_token=token, **fields)
            yield answer
            token = str(answer.get("nextPageToken") or "")

    def upload(self, file: Path, service: str, method: str, /, *, progress: bool = False, **fields: object) -> str:
        """Upload a file to the place that `method` promises, and return the token that stands for it."""
        facts = file.stat()
        place = self.ask(
            service, method, content_length=facts.st_size, last_modified_epoch_seconds=int(facts.st_mtime), **fields
        )
        upload(
            file,
            str(place.get("createUrl")),
            server=self.server,
            retry=self.retry,
            timeout=self.timeout,
            progress=progress,
        )
        return str(place.get("token"))

    def fetch(self, address: str, target: Path) -> None:
        self.retry(lambda: fetch(address, target, server=self.server, timeout=self.timeout))

    @contextmanager
    def at_competition(self, slug: str) -> Iterator[None]:
        """A refusal in the block says what is to be done about this competition.

        Kaggle refuses for unaccepted rules and for a wrong slug alike, but describes a competition to everybody.
        """
        try:
            yield
        except NoAccess as refusal:
            try:
                description = self.call("competitions", "GetCompetition", competition_name=slug)
                entered = bool(description.get("userHasEntered"))
            except KaggleError:
                entered = None
            raise no_entry(slug, refusal, entered=entered) from None

    @contextmanager
    def at_limit(self, slug: str) -> Iterator[None]:
        """A refusal in the block is a `DailyLimit` if no submission is left: Kaggle has no status of its own for it."""
        try:
            yield
        except Refused as refusal:
            try:
                limits = Limits.read(self.ask("competitions", "GetSubmissionLimits", competition_name=slug))
            except KaggleError:
                raise refusal from None
            if limits.left > 0:
                raise
            raise none_left(slug, refusal, limited_by_total=limits.limited_by_total) from None


class _Json:
    """Stands where the client expects the class of an answer, and gives the answer as it is.

    The client's own classes raise KeyError on a status that is newer than they are.
    """

    @staticmethod
    def prepare_from(response: requests.Response) -> Answer:
        content = response.json()
        if not isinstance(content, dict):
            raise requests.exceptions.InvalidJSONError
        return content


class TimeLimit(HTTPAdapter):
    """Gives every request a time limit; the client's own calls have none."""

    def __init__(self, timeout: float) -> None:
        super().__init__()
        self._timeout = timeout

    def send(self, *args: Any, **options: Any) -> Any:
        options["timeout"] = options.get("timeout") or self._timeout
        return super().send(*args, **options)
