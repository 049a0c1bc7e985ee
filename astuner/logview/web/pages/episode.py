"""An episode: what was said, what was judged, what was trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from astuner.errors import NotFoundError, UnreadableError
from astuner.logview.episode_parts import Attempts, attempts_with, read_sequences
from astuner.logview.view.conversation import Conversation, SaidCall, read_conversation
from astuner.logview.view.credit import credit_of, credits_of
from astuner.logview.view.folding import OPEN_CHARACTERS, SHOWN_CHARACTERS, on_one_line, shown_text
from astuner.logview.view.time_drawing import WIDTH, drawn_lanes, time_sentence
from astuner.logview.view.timeline import read_timeline
from astuner.logview.view.token_page import WINDOW, TokenWindow, token_window
from astuner.logview.view.tokens import Fate, ShownSequence
from astuner.logview.view.verdict import read_verdict
from astuner.logview.web.addresses import part_of, path_name, set_at
from astuner.logview.web.asked import asked_number, asked_run
from astuner.logview.web.episode_ways import ways_from
from astuner.logview.web.keep import as_kept_file
from astuner.logview.web.site import Site, as_data
from astuner.types import Task

if TYPE_CHECKING:
    from astuner.logview.reading.run_reader import RunReader
    from astuner.logview.reading.stored import StoredEpisode

_NUM_CALLS = 50
"""On a page."""
_OF_GENERATED_TASKS = frozenset(("document", "chunk", "turn"))
"""What the metadata of a task of a generated set has at least one of."""
_COLOURS = ("sampled", "gap", "ratio", "advantage")


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How much of an episode one page holds."""

    calls: int
    tokens: int
    characters: int
    """Of one text."""
    open_characters: int
    """Of these, before the rest is to be unfolded."""


SERVED = Amounts(
    calls=_NUM_CALLS,
    tokens=WINDOW,
    characters=SHOWN_CHARACTERS,
    open_characters=OPEN_CHARACTERS,
)
KEPT = Amounts(calls=1000, tokens=200_000, characters=2_000_000, open_characters=OPEN_CHARACTERS)
"""A kept page has no server to ask for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallsPage:
    """The calls that a page shows, out of those that were asked for."""

    calls: tuple[SaidCall, ...]
    start: int
    total: int
    before: str | None
    behind: str | None


def routes(site: Site) -> Iterator[BaseRoute]:
    """The page of an episode."""

    def page(request: Request) -> Response:
        run = asked_run(site, request)
        episode_id = path_name(request, "episode_id")
        row = run.index.locate(episode_id)
        if row is None:
            run.index.refresh()
            row = run.index.locate(episode_id)
        if row is None:
            raise NotFoundError(
                f"run {run.name} has no episode {episode_id}, or it is not listed yet; an episode "
                "appears once its step has written it. Look for it among the episodes of the run"
            )
        run.index.refresh(step=row.step, is_validation=row.is_validation, seconds=0.3)
        attempts = attempts_with(run, row)
        shared = {"run": run, "row": row, "ways": ways_from(request, run, row, attempts)}
        if row.problem is not None:
            return _unreadable(site, request, row.problem, **shared)
        try:
            stored = run.index.read(row)
        except UnreadableError as error:
            return _unreadable(site, request, str(error), **shared)
        made_at = _made_at(site, run, stored.episode.task)
        return _episode(site, request, stored, attempts, made_at=made_at, **shared)

    yield Route("/runs/{experiment}/{start}/episodes/{episode_id}", page)


def _episode(
    site: Site, request: Request, stored: "StoredEpisode", attempts: Attempts, **shared: Any
) -> Response:
    is_kept = request.query_params.get("keep") == "1"
    amounts = KEPT if is_kept else SERVED
    run, row, episode = shared["run"], stored.row, stored.episode
    conversation = read_conversation(episode)
    sequences = read_sequences(run, stored)
    window = _window(request, run, sequences, amounts)
    timeline = read_timeline(episode)
    colour = request.query_params.get("colour", "")
    answer = site.page(
        request,
        "episode.html",
        **shared,
        attempts=attempts,
        conversation=conversation,
        page=_calls(request, conversation, amounts),
        speaker=request.query_params.get("speaker"),
        verdict=read_verdict(episode),
        episode=episode,
        sequences=sequences,
        credits=credits_of([one.sample for one in sequences if one.sample], episode),
        credit_of=credit_of,
        window=window,
        token_data=as_data(window.data),
        first_tokens=_first_tokens(sequences),
        has_vocabulary=run.vocabulary() is not None,
        has_recomputed=any(s.recomputed for shown in sequences for s in shown.spans),
        colour=colour if colour in _COLOURS else "sampled",
        lanes=drawn_lanes(timeline),
        time_width=WIDTH,
        time_sentence=time_sentence(timeline),
        timeline=timeline,
        is_raw=request.query_params.get("raw") == "1",
        at=partial(_at, request),
        data_at=partial(part_of, run.name, "episodes", row.episode_id),
        whole_at=partial(part_of, run.name, "episodes", row.episode_id, "whole"),
        shown=partial(shown_text, num_open=amounts.open_characters, limit=amounts.characters),
        on_one_line=on_one_line,
    )
    return as_kept_file(bytes(answer.body).decode(), row.episode_id) if is_kept else answer


def _made_at(site: Site, run: "RunReader", task: Task) -> str | None:
    """The task in the generated set that it is from; None where it is of none that is found."""
    if not task.metadata.keys() & _OF_GENERATED_TASKS:
        return None
    for found in site.shelf.sets_of(run):
        if task.id_in_source in found.content().tasks_by_key:
            return set_at(found.name, "tasks", task.id_in_source)
    return None


def _unreadable(site: Site, request: Request, problem: str, **shared: Any) -> Response:
    run, row = shared["run"], shared["row"]
    return site.page(
        request,
        "episode_unreadable.html",
        status=422,
        problem=problem,
        record_at=part_of(run.name, "episodes", row.episode_id, "record"),
        **shared,
    )


def _calls(request: Request, conversation: Conversation, amounts: Amounts) -> CallsPage:
    """Those around the call that `calls` names, of one speaker where one is asked for."""
    speaker = request.query_params.get("speaker")
    calls = [c for c in conversation.calls if speaker is None or c.agent_name == speaker]
    asked = max(1, asked_number(request, "calls", 1)) - 1
    place = next((i for i, call in enumerate(calls) if call.index >= asked), 0)
    start = place - place % amounts.calls
    behind = start + amounts.calls
    return CallsPage(
        calls=tuple(calls[start:behind]),
        start=start,
        total=len(calls),
        before=_at(request, calls=calls[start - amounts.calls].index + 1) if start else None,
        behind=_at(request, calls=calls[behind].index + 1) if behind < len(calls) else None,
    )


def _window(
    request: Request, run: "RunReader", sequences: Sequence[ShownSequence], amounts: Amounts
) -> TokenWindow:
    """The tokens from `token` on, or from the begin of the sequence `seq`."""
    first = asked_number(request, "token")
    named = asked_number(request, "seq")
    if 0 < named <= len(sequences):
        first = sequences[named - 1].start
    elif first:
        first -= first % amounts.tokens
    return token_window(sequences, run.vocabulary(), first=first, size=amounts.tokens)


def _first_tokens(sequences: Sequence[ShownSequence]) -> Mapping[int, int]:
    """The number of the first token that each call sampled, where it stands first."""
    found: dict[int, int] = {}
    for sequence in sequences:
        for shown in sequence.spans:
            if shown.fate is not Fate.GIVEN:
                found.setdefault(shown.span.call, shown.start)
    return found


def _at(request: Request, *, place: str = "", **changes: Any) -> str:
    """This page with other parts in its address; None leaves one out."""
    query = {key: value for key, value in request.query_params.items() if key != "keep"} | changes
    given = {key: value for key, value in query.items() if value is not None}
    return f"?{urlencode(given, errors='surrogatepass')}{place}"
