"""The viewer as an application: which page answers an address, and what holds for all answers."""

import importlib
import pkgutil
from collections.abc import Iterator
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astuner.logview.web import pages
from astuner.logview.web.failures import Failures
from astuner.logview.web.site import Site

if TYPE_CHECKING:
    from astuner.logview.reading.shelf import Shelf

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing that a run has written is run by a browser."""


def make_app(shelf: "Shelf") -> Starlette:
    """All pages over these runs. Needs the extra `logview`."""
    site = Site(shelf)
    failures = Failures(site)
    return Starlette(
        routes=list(_routes(site)),
        middleware=[Middleware(SafeAnswers), Middleware(failures.around)],
        exception_handlers=failures.handlers,
    )


def _routes(site: Site) -> Iterator[BaseRoute]:
    for found in sorted(pkgutil.iter_modules(pages.__path__), key=lambda module: module.name):
        yield from importlib.import_module(f"{pages.__name__}.{found.name}").routes(site)
    yield Mount("/static/uplot", StaticFiles(packages=[("uplot", "static")]))
    yield Mount("/static", StaticFiles(directory=str(files("astuner.logview.web") / "static")))


class SafeAnswers:
    """Adds to every answer what keeps a browser from doing anything with it but showing it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = {name.lower() for name, _ in message["headers"]}
                added = [(name, value) for name, value in _HEADERS if name not in named]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, receive, send_safely)


_HEADERS = (
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
)
