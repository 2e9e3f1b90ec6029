"""What Kaggle refuses or fails to do, as errors a user can mend; the one place where an answer becomes one of them.

No text here may hold a secret. Exceptions of `requests` quote addresses (an upload's is its own password) and
headers, so their text is never used and they are never chained.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import requests

from pipeline.errors import KitError
from pipeline.submit.kaggle_answers import PushedKernel

_LONGEST_MESSAGE = 400
"""Characters of Kaggle's own words that are shown."""


class KaggleError(KitError):
    """Kaggle's answer cannot be used, and nothing below says it better."""


class NoCredentials(KaggleError):
    """There is no token, or Kaggle does not take it."""


class NoAccess(KaggleError):
    """403 or 404: what is asked for does not exist, or not for this user. Kaggle answers both alike."""


class RulesNotAccepted(NoAccess):
    """The competition's rules are to be accepted first, on its page."""


class Refused(KaggleError):
    """Kaggle understood and said no: any other status from 400 to 499."""


class NotSeen(Refused):
    """Kaggle says, in an answer of HTTP 200, that it made nothing: to be looked for before it is believed."""


class DailyLimit(Refused):
    """No submission is left today."""


class InvalidKernel(Refused):
    """A push that Kaggle would not take, or took without what it needs: title, slug, sources."""


class SourceTooLarge(InvalidKernel):
    """The kernel's code file is over Kaggle's limit."""


class SourceDropped(InvalidKernel):
    """Kaggle took a push without one of its sources, and runs it.

    Args:
        pushed: What runs.
        named: The sources that are lacking.
    """

    def __init__(self, pushed: PushedKernel, named: str) -> None:
        super().__init__(
            f"Kaggle dropped sources of {pushed.ref}, and runs version {pushed.version} without them: {named}",
            expected="sources that exist, are ready, and that you may use",
            next_step=f"cancel the session at {pushed.url}, mend the sources in kernel-metadata.json, then push again",
        )
        self.pushed, self.named = pushed, named

    def __reduce__(self) -> tuple[object, ...]:
        return (SourceDropped, (self.pushed, self.named))


class GpuQuota(Refused):
    """The GPU hours of the week are used up."""

    exit_code = 5


class GpuBusy(Refused):
    """As many GPU sessions are running as are allowed at a time."""

    exit_code = 5


class UploadFailed(KaggleError):
    """A file did not get through; nothing was made of it."""


class Unreachable(KaggleError):
    """No answer, a broken one, or 500 to 599: trying again may help."""


class BadAnswer(Unreachable):
    """An answer that is not of Kaggle's protocol: a proxy's page, half a text, a number where a list belongs."""


class RateLimited(KaggleError):
    """429: asked too often.

    Attributes:
        wait: Seconds after which Kaggle wants to be asked again, where it said so.
    """

    wait: float | None = None


class OutcomeUnknown(KaggleError):
    """Something that must not be done twice was sent, and whether it was done could not be found out."""


def no_credentials(problem: str, *, server: str) -> NoCredentials:
    if server != "kaggle.com":
        return NoCredentials(
            problem,
            expected="the token of the rehearsal that is running",
            next_step="take over the variables that `kit rehearse` prints when it starts",
        )
    return NoCredentials(
        problem,
        expected="an API token of your Kaggle account",
        next_step="make one at https://www.kaggle.com/settings/api, then put it into the variable KAGGLE_API_TOKEN "
        "or into the file ~/.kaggle/access_token",
    )


def no_entry(slug: str, refusal: NoAccess, *, entered: bool | None) -> NoAccess:
    """A refusal to do with a competition; `entered` is None where Kaggle does not describe it to the user."""
    rules = f"https://www.kaggle.com/c/{slug}/rules"
    if entered is False or "rules" in refusal.problem.lower():
        return RulesNotAccepted(
            f"the rules of the competition {slug} are not accepted: {refusal.problem}",
            expected="accepted rules, which no program can do for you",
            next_step=f"accept them at {rules}, then run the command again",
        )
    if entered:
        return refusal
    return NoAccess(
        f"there is no competition {slug}, or its rules are not accepted: {refusal.problem}",
        expected=f"a competition's name as in its address, https://www.kaggle.com/c/{slug}, and accepted rules",
        next_step=f"check the name; if it is right, accept the rules at {rules}",
    )


def none_left(slug: str, refusal: Refused, *, limited_by_total: bool) -> DailyLimit:
    return DailyLimit(
        f"no submission to {slug} is left: {refusal.problem}",
        expected="one that is left",
        next_step="the competition's total is used up"
        if limited_by_total
        else "wait for midnight UTC, when the day's submissions are given anew",
    )


@contextmanager
def translated(what: str, *, server: str) -> Iterator[None]:
    """Whatever `requests` raises in the block is raised as a `KaggleError`.

    Args:
        what: The call, as a message names it.
        server: Who is called, as a message names it.
    """
    try:
        yield
    except requests.HTTPError as error:
        raise _of_status(error.response, what, server) from None
    except requests.exceptions.InvalidJSONError:
        raise bad_answer(what, "with something that is not its protocol", server=server) from None
    except requests.Timeout:
        raise _unreachable(f"{server} did not answer {what} in time", server) from None
    except requests.RequestException as error:
        how = type(error).__name__
        raise _unreachable(f"the connection to {server} failed during {what} ({how})", server) from None


def bad_answer(what: str, how: str, *, server: str) -> BadAnswer:
    """An answer to the call `what` that cannot be read; `how` says in which way."""
    found = _unreachable(f"{server} answered {what} {how}", server)
    step = found.next_step if server != "kaggle.com" else f"is there a proxy in between? {found.next_step}"
    return BadAnswer(found.problem, expected=f"an answer of Kaggle's to {what}", next_step=step)


def next_step_for(said: str) -> str:
    """What to do about a refusal in Kaggle's words."""
    if re.search(r"phone|verif", said, re.IGNORECASE):
        return "verify your phone number at https://www.kaggle.com/settings, then run the command again"
    return "mend what it says"


def _of_status(response: Any, what: str, server: str) -> KaggleError:
    # A response is false when its status is an error: only `is None` tells whether there is one.
    if response is None:
        return _unreachable(f"{server} did not answer {what}", server)
    status, message = read_error(response)
    said = f"{what}: HTTP {status}, {message}" if message else f"{what}: HTTP {status}"
    if status == 401:
        return no_credentials(f"{server} does not take the credentials ({said})", server=server)
    if status in (403, 404):
        return NoAccess(
            f"{server} gives no access ({said})",
            expected="something that exists and that you may see",
            next_step=next_step_for(said)
            if re.search("phone", said, re.IGNORECASE)
            else "check its name, and the account the token belongs to",
        )
    if status == 429:
        limited = RateLimited(
            f"{server} is asked too often ({said})",
            expected="fewer requests at a time",
            next_step="wait some minutes, then run the command again",
        )
        limited.wait = retry_after(response)
        return limited
    if status >= 500:
        return _unreachable(f"{server} is in trouble ({said})", server)
    return Refused(f"{server} refuses ({said})", expected="a request it takes", next_step=next_step_for(said))


def _unreachable(problem: str, server: str) -> Unreachable:
    at_home = server != "kaggle.com"
    return Unreachable(
        problem,
        expected="an answer",
        next_step="is it running? start it with `kit rehearse`, on the port it had; or leave it: a new terminal, or "
        "the `unset` line that it printed"
        if at_home
        else "check the network and https://www.kaggle.com, then run the command again",
    )


def read_error(response: Any) -> tuple[int, str]:
    """Status and message of an answer in either of Kaggle's shapes, `{code, message}` and `{error: {code, message}}`.

    A status of 200 with an error inside gives the code inside. Secrets of the request are blanked out.
    """
    try:
        body = response.json()
    except (ValueError, RecursionError, requests.RequestException):
        body = None
    body = body if isinstance(body, dict) else {}
    inner = body.get("error") or body
    inner = inner if isinstance(inner, dict) else {"message": inner}
    code = inner.get("code")
    status = response.status_code if response.status_code >= 400 or not isinstance(code, int) else code
    message = inner.get("message")
    text = " ".join(message.split()) if isinstance(message, str) else response.reason or ""
    shown = "".join(character for character in text if character.isprintable())
    return status, without_secrets(shown, response.request)[:_LONGEST_MESSAGE]


def without_secrets(content: Any, request: Any) -> Any:
    """Text, or JSON with all its texts, in which the secrets of the request are blanked out."""
    if isinstance(content, dict):
        return {key: without_secrets(value, request) for key, value in content.items()}
    if isinstance(content, list):
        return [without_secrets(value, request) for value in content]
    return _blanked(content, request) if isinstance(content, str) else content


def _blanked(text: str, request: Any) -> str:
    kind, _, secret = str(request.headers.get("Authorization", "")).partition(" ")
    secrets = [secret]
    if kind == "Basic":
        with suppress(binascii.Error):
            secrets.append(base64.b64decode(secret).decode("latin-1").partition(":")[2])
    for found in filter(None, secrets):
        text = text.replace(found, "***")
    return text


def retry_after(response: Any) -> float | None:
    """Seconds of a Retry-After header, given in seconds or as a date; None without one that can be read."""
    text = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
