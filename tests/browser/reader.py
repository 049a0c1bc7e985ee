"""Somebody who looks at pages in a browser, and notices whatever a page should not do."""

import time
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Page, Request, Response

NARROW = {"width": 390, "height": 844}
WIDE = {"width": 1280, "height": 800}


class Reader:
    """One tab over a viewer, or over a file. `trouble` grows with every dialog, error of a script,
    refused or foreign request and failed answer; a test that ends with some has failed."""

    def __init__(self, context: BrowserContext, home: str) -> None:
        self.home = home
        self.context = context
        self.trouble: list[str] = []
        self.page = self._watched(context.new_page())
        context.on("page", self._watched)

    def _watched(self, page: Page) -> Page:
        page.on("dialog", self._dismiss)
        page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        page.on("console", self._read_console)
        page.on("request", self._check_request)
        page.on("response", self._check_response)
        return page

    def open(self, address: str) -> Page:
        """The page at an address of the viewer, once it stands and its scripts ran."""
        self.page.goto(f"{self.home}{address}", wait_until="load")
        return self.page

    @property
    def address(self) -> str:
        """Where the reader is, without the viewer's host."""
        return self.page.url.removeprefix(self.home)

    def is_marked(self) -> bool:
        """Whether the page is still the one that `mark` marked: not loaded anew."""
        return self.page.evaluate("window.marked === true")

    def mark(self) -> None:
        self.page.evaluate("window.marked = true")

    def until(self, expression: str, *, seconds: float) -> None:
        """Wait until a JavaScript expression is true; the pages' policy keeps Playwright's own wait
        from working."""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, f"not within {seconds} s: {expression}"
            self.page.wait_for_timeout(100)

    def picture(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path, full_page=True)

    def _dismiss(self, dialog: Dialog) -> None:
        self.trouble.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _read_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.trouble.append(f"console: {message.text} {message.location}")

    def _check_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        is_own = f"{parts.scheme}://{parts.netloc}" == self.home
        if not is_own and parts.scheme not in ("data", "blob", "file", "about"):
            self.trouble.append(f"foreign request: {request.url}")

    def _check_response(self, response: Response) -> None:
        if response.status >= 400:
            self.trouble.append(f"{response.status}: {response.url}")
