"""What all pages share: the shelf of runs, the templates, and how a page is answered."""

import json
import math
import time
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from astuner.logview.view import words
from astuner.logview.web import addresses

if TYPE_CHECKING:
    from astuner.logview.reading.shelf import Shelf

_ADDRESSES = (
    *("run_at", "part_of", "step_at", "group_at", "task_at", "episode_at", "compare_at"),
    *("set_at", "evaluation_at"),
)


class PageResponse(HTMLResponse):
    """A lone surrogate, which has no UTF-8 form, is shown as its escape."""

    def render(self, content: Any) -> bytes:
        return str(content).encode("utf-8", "backslashreplace")


class Site:
    """Made once for a server; its parts may be used by several threads."""

    def __init__(self, shelf: "Shelf") -> None:
        self.shelf = shelf
        self._templates = Environment(
            loader=PackageLoader("astuner.logview.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {name: getattr(addresses, name) for name in _ADDRESSES}
        self._templates.globals |= {"HOME": addresses.HOME, "now": time.time}
        self._templates.filters |= words.FILTERS

    def text(self, template: str, context: Mapping[str, Any]) -> str:
        """The template, filled; what comes from a run is escaped in it."""
        return self._templates.get_template(template).render(context)

    def page(
        self, request: Request, template: str, *, status: int = 200, **context: Any
    ) -> PageResponse:
        """The template as a whole page. `request` is there in it, as `here` its own address."""
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        shown = {"request": request, "here": here, "inlined": None, **context}
        return PageResponse(self.text(template, shown), status_code=status)


def static_text(name: str) -> str:
    """A file of ours, as in static_text("style.css")."""
    return (files("astuner.logview.web") / "static" / name).read_text(encoding="utf-8")


def as_data(value: Any) -> Markup:
    """JSON to stand in `<script type="application/json">`, which nothing in it can end."""

    def finite(item: Any) -> Any:
        if isinstance(item, float) and not math.isfinite(item):
            return None
        if isinstance(item, Mapping):
            return {str(key): finite(entry) for key, entry in item.items()}
        return [finite(entry) for entry in item] if isinstance(item, list | tuple) else item

    text = json.dumps(finite(value), ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
