"""The settings that a run was started with, and how they differ from those of another start."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from astuner.errors import NotFoundError, UnreadableError
from astuner.logview.view.settings import setting_differences
from astuner.logview.web.addresses import path_name
from astuner.logview.web.site import Site

if TYPE_CHECKING:
    from astuner.logview.reading.run_reader import RunReader


def routes(site: Site) -> Iterator[BaseRoute]:
    """`of` numbers a start of the run, `against` one of the run `with`, or of its own."""

    def config(request: Request) -> Response:
        run = site.shelf.run(f"{path_name(request, 'experiment')}/{path_name(request, 'start')}")
        asked = request.query_params
        other_name = asked.get("with") or None
        other = site.shelf.run(other_name) if other_name not in (None, run.name) else run
        number = _start_number(run, asked.get("of"))
        against = _start_number(other, asked.get("against"))
        is_compared = other is not run or (against != number and "against" in asked)
        here, there = _read(run, number), _read(other, against)
        differences = setting_differences(here.settings, there.settings) if is_compared else []
        return site.page(
            request,
            "config.html",
            run=run,
            other=other,
            number=number,
            against=against,
            num_starts=len(run.config_files()),
            num_other_starts=len(other.config_files()),
            text=here.text,
            problem=here.problem or there.problem,
            is_compared=is_compared,
            differences=differences,
            num_settings=len(here.settings.keys() | there.settings.keys()),
            choices=[one.name for one in site.shelf.runs() if one.name != run.name],
        )

    yield Route("/runs/{experiment}/{start}/config", config)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSettings:
    """What a start was given."""

    text: str | None
    """As it was written; None where it is not there."""
    settings: dict[str, Any]
    """By dotted keys."""
    problem: str | None
    """Why these are not known."""


def _read(run: "RunReader", number: int) -> StartSettings:
    text = None
    try:
        text = run.config_text(number)
        return StartSettings(text=text, settings=run.config(number), problem=None)
    except NotFoundError:
        return StartSettings(text=None, settings={}, problem=None)
    except UnreadableError as error:
        return StartSettings(text=text, settings={}, problem=str(error))


def _start_number(run: "RunReader", asked: str | None) -> int:
    """From 1; the newest where none is asked for, or one that was not."""
    newest = max(1, len(run.config_files()))
    number = int(asked) if asked and asked.isdecimal() and len(asked) < 9 else newest
    return number if 1 <= number <= newest else newest
