"""Where a server of environments listens, and how a request to it fails. Knows no protocol."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Self

import httpx

from astuner.errors import ConfigError, EnvServiceError

MAX_ANSWER_BYTES = 100 * 2**20
"""What clients of OpenEnv take: screenshots and pages are large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteServer:
    """A server that somebody else runs."""

    url: str
    """http:// or https://, without a slash at its end."""
    token: str | None = field(repr=False)
    """None: the server asks for none."""
    timeout_seconds: float
    """A request that takes longer failed."""
    section: str
    """Of the settings that it comes from, such as task_reader.openenv; for messages."""

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], *, section: str, environ: Mapping[str, str] = os.environ
    ) -> Self:
        """Of a section with url, token_env and timeout_seconds. Raises ConfigError."""
        given = settings.get("url")
        if not given:
            raise ConfigError(
                f"{section}.url is not set; give the address that the server listens at, such as "
                "http://127.0.0.1:8000"
            )
        url = re.sub("^ws", "http", str(given).strip().rstrip("/"))
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError):
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(
                f"{section}.url: found {given!r}; write an address like http://127.0.0.1:8000"
            )
        token = environ.get(settings["token_env"] or "", "").strip() or None
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise ConfigError(
                f"the environment variable {settings['token_env']} holds characters that no token "
                "has, such as spaces; set it to the token alone"
            )
        return cls(
            url=url,
            token=token,
            timeout_seconds=settings["timeout_seconds"],
            section=section,
        )

    @property
    def websocket_url(self) -> str:
        return "ws" + self.url.removeprefix("http")

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine, where no proxy stands in between."""
        host = httpx.URL(self.url).host
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def client_options(self, **headers: str) -> dict[str, Any]:
        """For httpx.Client and httpx.AsyncClient."""
        return {
            "base_url": self.url,
            "headers": {**self.headers, **headers},
            "timeout": self.timeout_seconds,
            "trust_env": not self.is_local,
            "follow_redirects": True,
        }

    def why(self, error: httpx.HTTPError) -> str:
        """What became of a request that got no answer, and what to do."""
        if isinstance(error, httpx.TimeoutException):
            return (
                f"no answer within {self.timeout_seconds:g} s ({self.section}.timeout_seconds); "
                "see what the server does, or raise the limit"
            )
        return (
            f"{type(error).__name__}: {error}; see whether the server runs there and whether "
            f"{self.section}.url is its address"
        )


def said_by(response: httpx.Response) -> str:
    """Status and reason of an answer, for a message."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = response.text
    return f"HTTP {response.status_code}: {str(detail)[:300]}"


@contextlib.contextmanager
def reading(answer: object, *, where: str) -> Iterator[None]:
    """An answer that does not have the form of the protocol becomes an EnvServiceError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise EnvServiceError(
            f"{where}: found {answer!r:.200}, which is not what the protocol has there; see "
            "whether the address is that of such a server"
        ) from error
