"""What the address of a page asks for: a run of the shelf, a kind of step, a place in a list."""

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.requests import Request

from astuner.logview.web.addresses import path_name
from astuner.logview.web.site import Site

if TYPE_CHECKING:
    from astuner.logview.reading.run_reader import RunReader
    from astuner.logview.reading.set_reader import SetReader


def asked_run(site: Site, request: Request) -> "RunReader":
    """The run that the path names. Raises NotFoundError."""
    return site.shelf.run(f"{path_name(request, 'experiment')}/{path_name(request, 'start')}")


def asked_set(site: Site, request: Request) -> "SetReader":
    """The generated set that the path names. Raises NotFoundError."""
    return site.shelf.set_named(f"{path_name(request, 'place')}/{path_name(request, 'folder')}")


def asks_validation(request: Request) -> bool:
    return request.query_params.get("kind") == "validation"


def asked_number(request: Request, name: str, default: int = 0) -> int:
    """A count out of the query; what is none counts as not given."""
    text = request.query_params.get(name, "")
    is_count = text.isascii() and text.isdigit() and len(text) < 10
    return int(text) if is_count else default


def here_with(request: Request, **changes: object) -> str:
    """This page with other values in its query; a list is shown from its beginning then."""
    asked = {name: value for name, value in request.query_params.items() if name != "from"}
    return f"?{urlencode(asked | changes, errors='surrogatepass')}"
