"""What is shown where a page cannot be: pages of their own, which say what to do."""

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from astuner.errors import NotFoundError, UnreadableError
from astuner.logview.web.site import Site
from astuner.serving.seldom_log import SeldomLog

if TYPE_CHECKING:
    from astuner.logview.reading.run_reader import RunReader

logger = logging.getLogger(__name__)

_MAX_PATH = 200


class Failures:
    """Answers in place of pages that failed. Of one application."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._roots: dict[str, Path] = {}
        """Where the runs were that pages were asked for; they need not be found again then."""
        self._log = SeldomLog(logger, clock=time.monotonic)
        self.handlers: Mapping[Any, Callable[[Request, Exception], Response]] = {
            NotFoundError: self._not_found,
            UnreadableError: self._unreadable,
            HTTPException: self._no_such_page,
        }
        """For Starlette."""

    def around(self, app: ASGIApp) -> ASGIApp:
        """Answers what nobody expected, and the server goes on."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            has_begun = False

            async def watched(message: Message) -> None:
                nonlocal has_begun
                if message["type"] == "http.response.start":
                    has_begun = True
                await send(message)

            request = Request(scope)
            try:
                if await run_in_threadpool(self._is_gone, request):
                    await self._gone(request)(scope, receive, watched)
                else:
                    await app(scope, receive, watched)
            except Exception as error:  # code of pages, on whatever files hold
                if has_begun:
                    raise
                answer = self._unexpected(request, error)
                await answer(scope, receive, send)

        return guarded

    def _not_found(self, request: Request, error: Exception) -> Response:
        if self._is_gone(request):
            return self._gone(request)
        return self._said(request, 404, "Not found", str(error), run=self._run_of(request))

    def _unreadable(self, request: Request, error: Exception) -> Response:
        if self._is_gone(request):
            return self._gone(request)
        return self._said(request, 422, "Not readable", str(error), run=self._run_of(request))

    def _no_such_page(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        message = "There is no page at this address; it may be of another version of astuner."
        return self._said(request, status, "Not found", message)

    def _unexpected(self, request: Request, error: Exception) -> Response:
        if isinstance(error, OSError) and self._is_gone(request):
            return self._gone(request)
        told = "".join(traceback.format_exception(error)).rstrip()
        path = request.url.path[:_MAX_PATH]
        self._log.warn(type(error).__name__, "page failed path=%r\n%s", path, told)
        return self._said(
            request,
            500,
            "This page failed",
            f"It cannot be made: {type(error).__name__}. That is a fault of the viewer; the other "
            "pages go on, and where it was started its log has the whole of it.",
        )

    def _is_gone(self, request: Request) -> bool:
        """Whether the run was there, and is not any more."""
        run = run_in(request.url.path)
        if run is None:
            return False
        root = self._roots.get(run)
        if root is None or not root.is_dir():
            try:
                root = self._site.shelf.run(run).root
            except NotFoundError:
                return False
            self._roots[run] = root
        return not root.is_dir()

    def _gone(self, request: Request) -> Response:
        run = run_in(request.url.path)
        message = (
            f"The run {run} was there a while ago, and its folder is not any more: it was deleted "
            "or moved. What is open in a browser stays there."
        )
        return self._said(request, 410, "This run is gone", message)

    def _run_of(self, request: Request) -> "RunReader | None":
        """The run that the address is of, where that is there."""
        name = run_in(request.url.path)
        try:
            return self._site.shelf.run(name) if name is not None else None
        except NotFoundError:
            return None

    def _said(
        self,
        request: Request,
        status: int,
        title: str,
        message: str,
        run: "RunReader | None" = None,
    ) -> Response:
        return self._site.page(
            request, "said.html", status=status, title=title, message=message, run=run
        )


def run_in(path: str) -> str | None:
    """The name of the run that the path of a request belongs to; see `addresses.path_name`."""
    parts = [unquote(part, errors="surrogatepass") for part in path.split("/")]
    return "/".join(parts[2:4]) if len(parts) >= 4 and parts[1] == "runs" else None
