"""By which names a server may be called.

A web page can have its own name resolve to the address of a server that only this machine reaches,
and then read its answers as if they were the page's own (DNS rebinding). What gives it away is the
name in the Host header.
"""

import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from astuner.serving.answer import ErrorShape, plain_error, refused
from astuner.serving.refusal import Refusal


class HostCheck:
    """Stands before an application; requests to another host are answered 421."""

    def __init__(
        self, app: ASGIApp, *, names: Iterable[str], shape: ErrorShape = plain_error
    ) -> None:
        """`names` are hosts without a port; those of IPv6 without brackets."""
        self._app = app
        self._names = frozenset(name.lower() for name in names)
        self._hosts = frozenset(f"[{name}]" if ":" in name else name for name in self._names)
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        known = _without_port(host).lower() in self._hosts
        app = self._app if known else refused(self._refusal(host), self._shape)
        await app(scope, receive, send)

    def _refusal(self, host: str) -> Refusal:
        return Refusal(
            421,
            f"the request is for the host {host!r}, which is not this server; it is called "
            f"{' or '.join(sorted(self._names))}",
            code="wrong_host",
        )


def _without_port(host: str) -> str:
    """What stands before a port. All else stays and so belongs to no name: a user, a path."""
    return re.sub(r":[0-9]*\Z", "", host)
