"""By which names a server may be called.

A web page can have its own name resolve to the address of a server that only this machine reaches,
and then read its answers as if they were the page's own (DNS rebinding). What gives it away is the
name in the Host header.
"""

import logging
import re
import socket
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from astuner.serving.answer import ErrorShape, plain_error, refused
from astuner.serving.refusal import CLOSE, Refusal
from astuner.serving.seldom_log import SeldomLog

logger = logging.getLogger(__name__)

_MAX_SHOWN = 100


class HostCheck:
    """Stands before an application; requests to another host are answered 421."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Iterable[str],
        shape: ErrorShape = plain_error,
        setting: str | None = None,
    ) -> None:
        """`names` are hosts without a port; those of IPv6 without brackets.

        The address that a client has connected to is a name besides: who asks for it there has
        followed nobody's name. `setting` is where more of them can be named.
        """
        self._app = app
        self._names = frozenset(name.lower() for name in names)
        self._hosts = frozenset(_as_host(name) for name in self._names)
        self._shape = shape
        self._more = f"; name others in {setting}" if setting else ""
        self._log = SeldomLog(logger, clock=time.monotonic)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = (value for name, value in scope["headers"] if name == b"host")
        host = next(named, b"").decode("latin-1")
        name = _without_port(host).lower()
        known = name in self._hosts or name == _own_host(scope)
        app = self._app if known else refused(self._refusal(host), self._shape)
        await app(scope, receive, send)

    def _refusal(self, host: str) -> Refusal:
        refusal = Refusal(
            421,
            f"the request is for the host {host[:_MAX_SHOWN]!r}, which is not this server; it is "
            f"called {' or '.join(sorted(self._names))}{self._more}",
            code="wrong_host",
            headers=CLOSE,
        )
        self._log.warn("host", "request refused status=421 reason=%s", refusal.message)
        return refusal


def own_names() -> tuple[str, ...]:
    """What programs on this machine may call it."""
    return ("127.0.0.1", "::1", "localhost", socket.gethostname())


def _as_host(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _own_host(scope: Scope) -> str | None:
    """The address of this end of the connection."""
    server = scope.get("server")
    # A socket of both families calls addresses of IPv4 so.
    return _as_host(server[0].removeprefix("::ffff:")) if server else None


def _without_port(host: str) -> str:
    """What stands before a port. All else stays and so belongs to no name: a user, a path."""
    return re.sub(r":[0-9]*\Z", "", host)
