"""What pages ask every two seconds: how far files have grown. Looks at sizes only."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from astuner.logview.web.addresses import path_name
from astuner.logview.web.asked import asked_set
from astuner.logview.web.site import Site

if TYPE_CHECKING:
    from astuner.logview.reading.run_reader import RunReader

_FOLDERS = ("episodes", "training")


def routes(site: Site) -> Iterator[BaseRoute]:
    """Of one run, with those laid over it, of one set, and of all runs and sets."""

    def of_run(request: Request) -> Response:
        name = f"{path_name(request, 'experiment')}/{path_name(request, 'start')}"
        names = [name, *request.query_params.getlist("with")]
        step = request.query_params.get("step", "")
        only = f"_{int(step):06d}." if step.isdecimal() and len(step) < 19 else None
        return JSONResponse([_grown(site.shelf.run(name), only) for name in names])

    def of_all(request: Request) -> Response:
        found = [*site.shelf.runs(), *site.shelf.sets()]
        return JSONResponse([[one.name, *_files(one.root)] for one in found])

    def of_set(request: Request) -> Response:
        return JSONResponse(_files(asked_set(site, request).root))

    yield Route("/runs/{experiment}/{start}/live", of_run)
    yield Route("/sets/{place}/{folder}/live", of_set)
    yield Route("/live", of_all)


def _grown(run: "RunReader", only: str | None) -> dict[str, Any]:
    """With `only`, of records those whose file name has it."""
    folders = {name: _files(run.root / name, only) for name in _FOLDERS}
    return {"status": run.state().status, "files": _files(run.root), **folders}


def _files(folder: Path, only: str | None = None) -> tuple[int, int]:
    """Their number and how many bytes they have."""
    sizes = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if (only is None or only in entry.name) and entry.is_file(follow_symlinks=False):
                    sizes.append(entry.stat(follow_symlinks=False).st_size)
    except OSError:
        return (0, 0)
    return (len(sizes), sum(sizes))
