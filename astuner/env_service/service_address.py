"""Where an environment service listens, and how it is spoken to: address, token, TLS.

The only place that reads the token. It leaves it in the header of a request and nowhere else.
"""

import os
import re
import shlex
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self

import httpx

from astuner.errors import ConfigError, EnvServiceError

EMBEDDED = "embedded"
"""In place of an address: a server that starts and ends with the run. Then the user in its URL."""
VERSION_HEADER = "EnvService-Version"
"""Of each answer of a server that knows one step from the next, so that one may be sent again."""
_BY_CODE = {
    "unknown_environment": "set env_type to the name of one that it has",
    "unknown_split": "set training_split or validation_split to one that it has",
}
"""What to do about an answer of a server that gives this code."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_KEEP_CONNECTION_SECONDS = 2.0
"""Shorter than servers keep an idle one (uvicorn: 5 s): a request on a connection that the server
just closes is lost, and nobody knows whether it arrived."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvServiceAddress:
    """A service, one of its environments, and what to show it."""

    url: str
    """Without a token and without a slash at the end."""
    env_type: str
    token: str | None = field(repr=False)
    token_env: str
    """Name of the variable that the token may stand in."""
    timeout_seconds: float
    """Of one request."""
    is_embedded: bool = False
    """Whether it runs beside the run, and ends with it."""

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], environ: Mapping[str, str] = os.environ
    ) -> Self:
        """From the section task_reader.env_service. A password in the URL is a token too, which
        wins over the variable. Raises ConfigError where the URL is none."""
        url = _read_url(settings["env_url"])
        token = url.password or environ.get(settings["token_env"], "").strip() or None
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise ConfigError(
                f"the environment variable {settings['token_env']} holds characters that no token "
                "has, such as spaces; set it to the token alone"
            )
        return cls(
            url=str(url.copy_with(userinfo=b"")).rstrip("/"),
            env_type=settings["env_type"],
            token=token,
            token_env=settings["token_env"],
            timeout_seconds=settings["timeout_seconds"],
            is_embedded=url.username == EMBEDDED,
        )

    @property
    def name(self) -> str:
        return f"environment {self.env_type} at {self.url}"

    def http_options(self) -> dict[str, Any]:
        """For an httpx client. A proxy of the environment is for what is not on this machine."""
        url = httpx.URL(self.url)
        return {
            "headers": {"Authorization": f"Bearer {self.token}"} if self.token else {},
            "timeout": self.timeout_seconds,
            "trust_env": url.host not in _LOOPBACK,
            "verify": _certificates() if url.scheme == "https" else False,
            "limits": httpx.Limits(keepalive_expiry=_KEEP_CONNECTION_SECONDS),
        }

    @property
    def start_advice(self) -> str:
        """What to do where nobody answers."""
        if self.is_embedded:
            return (
                "the server beside this run has ended; logs/ in the run directory has what it "
                "said; then start again, with --resume where there is a checkpoint"
            )
        beside = ", or one with the run by --with-appworld" if self.env_type == "appworld" else ""
        return (
            "see whether the server runs; start one with `astuner env serve "
            f"{shlex.quote(self.env_type)}`{beside}"
        )

    def advice(self, status: int | None = None, code: str | None = None) -> str:
        """What to do about an answer with this status, and a code where the server gives one."""
        if status == 401:
            return f"set the environment variable {self.token_env} to the token of the server"
        if code is not None and code in _BY_CODE:
            return _BY_CODE[code]
        if self.is_embedded:
            return "see the log of the server, in logs/ of the run directory"
        return "see the log of the server"

    def error(
        self,
        what: str,
        found: str,
        advice: str,
        *,
        task_id: str | None = None,
        code: str | None = None,
        is_retriable: bool = False,
    ) -> EnvServiceError:
        task = "" if task_id is None else f", task {task_id}"
        return EnvServiceError(
            f"{what}: {self.name}{task}: {found}; {advice}", code=code, is_retriable=is_retriable
        )


def _read_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise _no_url(text) from error
    if url.scheme not in ("http", "https") or not url.host:
        raise _no_url(text)
    return url


def _no_url(text: str) -> ConfigError:
    return ConfigError(
        f"task_reader.env_service.env_url: found {text!r}, expected the address of a server such "
        "as http://127.0.0.1:8080, or embedded for one that starts and ends with the run"
    )


@cache
def _certificates() -> ssl.SSLContext:
    """Once: reading them takes longer than a request."""
    return httpx.create_ssl_context()
