"""Serves the viewer until it is to end. Owns neither the socket's place nor the process.

Needs the extra `logview`; what it imports is imported when it is used, so that whoever starts a run
needs none of it.
"""

from collections.abc import Awaitable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from astuner.errors import ConfigError
from astuner.logview.entrance import Entrance
from astuner.serving.server import Server

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from astuner.logview.ahead import ReadingAhead
    from astuner.logview.reading.shelf import Shelf

_EXTRA = ("uplot", "msgspec")


def check_installed() -> None:
    """Raises ConfigError where a package of the extra is missing."""
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the viewer is not installed: {' and '.join(missing)} cannot be imported; "
            "pip install 'astuner[logview]'"
        )


async def serve(shelf: "Shelf", entrance: Entrance, *, until: Awaitable[object]) -> None:
    """Answer at the entrance until `until` is done."""
    from astuner.logview.ahead import ReadingAhead

    with ReadingAhead(shelf) as ahead:
        server = Server(
            _guarded(shelf, entrance, ahead),
            setting="logview",
            listening=entrance.listening,
            advertised_host=entrance.host,
        )
        try:
            await until
        finally:
            await server.stop()


def _guarded(shelf: "Shelf", entrance: Entrance, ahead: "ReadingAhead") -> "ASGIApp":
    """The application, and what a request passes before it comes there."""
    from astuner.logview.app import SafeAnswers, make_app
    from astuner.logview.failures import run_in
    from astuner.logview.gate import Gate
    from astuner.logview.site import Site
    from astuner.serving.hosts import HostCheck

    def look(request: "Request") -> None:
        ahead.look(run_in(request.url.path))

    gate = Gate(
        make_app(shelf),
        Site(shelf),
        token=entrance.token,
        cookie=f"astuner_logview_{entrance.port}",
        on_request=look,
    )
    return SafeAnswers(HostCheck(gate, names=entrance.names, setting="--allowed-host"))
