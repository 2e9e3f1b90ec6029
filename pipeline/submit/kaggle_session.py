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

from pipeline.submit.kaggle_answers import Limits
from pipeline.submit.kaggle_errors import (
    KaggleError,
    NoAccess,
    Refused,
    bad_answer,
    no_entry,
    none_left,
    translated,
    without_secrets,
)
from pipeline.submit.kaggle_retry import Patience, Retry
from pipeline.submit.kaggle_shapes import Answer, json_of, problem_with
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
        retry: How often a call is repeated, where that is safe, and how long the server may stay silent.
    """

    api: Any
    message: Callable[..., Any]
    server: str
    retry: Retry

    def call(self, service: str, method: str, /, **fields: object) -> Answer:
        """One request, and the JSON of its answer."""
        request = self.message(service, f"Api{method}Request", **fields)
        with translated(method, server=self.server), self.api.build_kaggle_client() as client:
            answer = client.http_client().call(_SERVICES[service], method, request, Json)
        return self.checked(method, answer)

    def checked(self, method: str, answer: Answer) -> Answer:
        """The answer to `method`, which has the shape of one.

        Raises:
            BadAnswer: It has another one.
        """
        if problem := problem_with(method, answer):
            raise bad_answer(method, problem, server=self.server)
        return answer

    def ask(self, service: str, method: str, /, **fields: object) -> Answer:
        """A call that is safe to repeat."""
        return self.retry(lambda: self.call(service, method, **fields))

    def pages(self, service: str, method: str, /, **fields: object) -> Iterator[Answer]:
        """Every page of a list.

        Raises:
            BadAnswer: The same page comes again and again.
        """
        token, before = "", None
        while True:
            answer = self.ask(service, method, page_size=_PAGE, page_token=token, **fields)
            content = {key: value for key, value in answer.items() if key != "nextPageToken"}
            if content == before:
                raise bad_answer(method, "with the same page again and again", server=self.server)
            yield answer
            token, before = str(answer.get("nextPageToken") or ""), content
            if not token:
                return

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

    @property
    def timeout(self) -> float:
        """Seconds the server may stay silent now."""
        return self.retry.patience.seconds

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
            except KaggleError:
                entered = None
            else:
                entered = bool(description.get("userHasEntered"))
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


class Json:
    """Stands where the client expects the class of an answer: the answer is wanted as it is.

    The client's own classes raise KeyError on a status that is newer than they are.
    """


def prepared(theirs: Callable[[Any, Any], Any], kind: Any, response: requests.Response) -> Any:
    """An answer as whoever called wants it, without secrets; in the place of the client's own `_prepare_response`.

    That one falls over an answer that is no object, and makes a kernel's push an object that cannot be checked.
    """
    if kind is Json or getattr(kind, "__name__", "") == "ApiSaveKernelResponse":
        return without_secrets(json_of(response), response.request)
    try:
        return theirs(kind, response)
    except requests.RequestException:
        raise
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        raise requests.exceptions.InvalidJSONError from None


class TimeLimit(HTTPAdapter):
    """Gives every request a time limit; the client's own calls have none."""

    def __init__(self, patience: Patience) -> None:
        super().__init__()
        self._patience = patience

    def send(self, *args: Any, **options: Any) -> Any:
        options["timeout"] = options.get("timeout") or self._patience.seconds
        return super().send(*args, **options)
