"""Servers with traces, asked over HTTP: what is asked again, and what a refusal means."""

import ipaddress
import logging
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from astuner.errors import TraceSourceError
from astuner.llm.endpoint import Setback
from astuner.llm.retries import Backoff, status_setback

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_MAX_WAIT_SECONDS = 300.0
"""That a server may ask for; who wants to be left alone for longer is read later."""
_REFUSED_LOGINS = (401, 403)
_NOT_THERE = (404, 405, 501)
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLogin:
    """How one logs in, and what to say to who does not."""

    advice: str
    """What to set, such as `set PHOENIX_API_KEY to a key of …`."""
    headers: Mapping[str, str] = field(default_factory=dict)
    user_and_password: tuple[str, str] | None = None


class TraceServer:
    """One server; `with` closes its connection."""

    def __init__(
        self, url: str, login: ServerLogin, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        import httpx

        self.url = url
        self._login, self._sleep = login, sleep
        self._backoff = Backoff(random=Random(url))
        self._client = httpx.Client(
            headers=dict(login.headers),
            auth=login.user_and_password,
            timeout=httpx.Timeout(_TIMEOUT_SECONDS, connect=_CONNECT_SECONDS),
            trust_env=not _is_local(url),
            verify=_is_encrypted(url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The JSON of the answer; parameters that are None are left out.

        Raises TraceSourceError: it does not answer, wants a login, or has no such route.
        """
        return self._json(path, self._asked("GET", path, params, None))

    def get_if_there(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The same; None where the server has no such route."""
        answer = self._asked("GET", path, params, None, may_miss=True)
        return None if _is_missing(answer) else self._json(path, answer)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The same for a question that is asked by POST, and changes nothing."""
        return self._json(path, self._asked("POST", path, None, body))

    def _asked(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None,
        *,
        may_miss: bool = False,
    ) -> "httpx.Response":
        """An answer that is none of passing troubles, which are waited out."""
        told = {key: value for key, value in (params or {}).items() if value is not None}
        num_tries = 1
        while isinstance(answer := self._tried(method, path, told, body), Setback):
            seconds = self._backoff.wait_seconds(num_tries, answer.retry_after_seconds)
            why = f"{answer.reason}: {answer.found}"
            if num_tries >= self._backoff.max_tries or seconds > _MAX_WAIT_SECONDS:
                raise self._failed(
                    path,
                    f"no answer after {num_tries} tries, the last: {why}; see whether the server "
                    "runs there and is well, then read again",
                )
            logger.info(
                "traces asked again url=%s%s after=%r wait_seconds=%.1f",
                *(self.url, path, why, seconds),
            )
            self._sleep(seconds)
            num_tries += 1
        return self._accepted(path, answer, may_miss=may_miss)

    def _tried(
        self, method: str, path: str, params: Mapping[str, Any], body: Mapping[str, Any] | None
    ) -> "httpx.Response | Setback":
        import httpx

        try:
            answer = self._client.request(method, self.url + path, params=params, json=body)
        except httpx.RequestError as error:
            return Setback(reason="connection", found=f"{type(error).__name__}: {error}")
        if answer.status_code in _NOT_THERE:
            return answer
        return status_setback(answer.status_code, answer.headers, _short(answer.text)) or answer

    def _accepted(self, path: str, answer: "httpx.Response", *, may_miss: bool) -> "httpx.Response":
        status = answer.status_code
        if status in _REFUSED_LOGINS:
            raise self._failed(path, f"wants a login ({status}); {self._login.advice}")
        if answer.is_redirect:
            raise self._failed(
                path,
                f"leads on to {answer.headers.get('location', '')!r}; name that address, or "
                f"{self._login.advice} where it is a page to log in",
            )
        if status in _NOT_THERE and may_miss:
            return answer
        if answer.is_error:
            raise self._failed(
                path,
                f"refused with {status}: {_short(answer.text)}; see whether this is the address "
                "of the server itself, and its version one that is known",
            )
        return answer

    def _json(self, path: str, answer: "httpx.Response") -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise self._failed(
                path,
                f"found {_short(answer.text)!r}, which is no JSON; see whether this is the address "
                "of the server itself",
            ) from error

    def _failed(self, path: str, why: str) -> TraceSourceError:
        return TraceSourceError(f"{self.url}{path}: {why}")


def glance(url: str, path: str) -> "httpx.Response | None":
    """What a server says at once to whoever comes without a login; None where nobody answers."""
    import httpx

    try:
        return httpx.get(
            url + path,
            timeout=_CONNECT_SECONDS,
            trust_env=not _is_local(url),
            verify=_is_encrypted(url),
        )
    except httpx.HTTPError:
        return None


def _is_missing(answer: "httpx.Response") -> bool:
    """Servers with pages of their own answer what they do not know with one of these."""
    is_page = answer.headers.get("content-type", "").startswith("text/html")
    return answer.status_code in _NOT_THERE or is_page


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _SHOWN_CHARACTERS else one_line[:_SHOWN_CHARACTERS] + "…"


def _is_encrypted(url: str) -> bool:
    """Whether certificates are to be loaded, which takes longer than most answers."""
    return url.startswith("https:")


def _is_local(url: str) -> bool:
    """Whether no proxy leads there."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
