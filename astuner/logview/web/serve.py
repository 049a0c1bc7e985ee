"""Serves the viewer until it is to end. Owns neither the socket's place nor the process.

Needs the extra `logview`; what it imports is imported when it is used, so that whoever starts a run
needs none of it.
"""

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from astuner.errors import ConfigError
from astuner.logview.web.entrance import Entrance
from astuner.serving.server import Server

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from astuner.logview.reading.shelf import Shelf
    from astuner.logview.web.site import Site

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
    from astuner.logview.web.ahead import ReadingAhead
    from astuner.logview.web.app import make_app
    from astuner.logview.web.failures import run_in
    from astuner.logview.web.site import Site

    with ReadingAhead(shelf) as ahead:
        app = guarded(
            make_app(shelf),
            Site(shelf),
            entrance,
            on_request=lambda request: ahead.look(run_in(request.url.path)),
        )
        server = Server(
            app, setting="logview", listening=entrance.listening, advertised_host=entrance.host
        )
        try:
            await until
        finally:
            await server.stop()


def guarded(
    app: "ASGIApp", site: "Site", entrance: Entrance, *, on_request: "Callable[[Request], None]"
) -> "ASGIApp":
    """What a request passes before it comes to the application."""
    from astuner.logview.web.app import SafeAnswers
    from astuner.logview.web.gate import Gate
    from astuner.serving.hosts import HostCheck

    cookie = f"astuner_logview_{entrance.port}"
    gate = Gate(app, site, token=entrance.token, cookie=cookie, on_request=on_request)
    return SafeAnswers(HostCheck(gate, names=entrance.names, setting="--allowed-host"))
