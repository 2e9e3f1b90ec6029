"""Signing in: the real client imported, given time limits and checked answers, kept silent, and its token tried."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from enum import Enum
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import requests

from pipeline.submit.kaggle_errors import KaggleError, NoAccess, Refused, bad_answer, no_credentials, translated
from pipeline.submit.kaggle_retry import Patience
from pipeline.submit.kaggle_session import Json, TimeLimit, prepared
from pipeline.submit.kaggle_shapes import problem_with

_MODULES = {
    "blobs": "blob_api_service",
    "competitions": "competition_api_service",
    "datasets": "dataset_api_service",
    "kernels": "kernels_api_service",
}
"""Where `kagglesdk` keeps the messages of a service."""


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


def message(service: str, name: str, /, **fields: Any) -> Any:
    """A message of the protocol, which knows its fields and their types; an enum is given by name."""
    message = getattr(import_module(f"kagglesdk.{service}.types.{_MODULES[service]}"), name)()
    for field, value in fields.items():
        default = getattr(message, field)
        setattr(message, field, type(default)[value] if isinstance(default, Enum) else value)
    return message


def import_api() -> Any:
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


def make_api(real: Any, patience: Patience, server: str, *, local: bool) -> Any:
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


def sign_in(api: Any, server: str) -> None:
    """Let the real client find the credentials, and try a token.

    Where the token fails, the client goes on to the other credentials, and sends the token all the same.
    """
    from kagglesdk import get_access_token_from_env

    try:
        token, source = get_access_token_from_env()
        with silence(), translated("the sign-in", server=server):
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
def silence() -> Iterator[None]:
    """Keep what the package prints from the user, and the user's stdin from its `exit()`, which closes it."""
    verbose = {name: os.environ.pop(name) for name in ("VERBOSE", "VERBOSE_OUTPUT") if name in os.environ}
    stdin, sys.stdin = sys.stdin, io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        sys.stdin = stdin
        os.environ.update(verbose)
