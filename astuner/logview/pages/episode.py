"""An episode: what was said, what was judged, what was trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from astuner.errors import NotFoundError, UnreadableError
from astuner.logview.addresses import episode_at, group_at, part_of, path_name, step_at, task_at
from astuner.logview.asked import asked_number, asked_run
from astuner.logview.asked_episodes import asked_query, asks_for_some, query_address
from astuner.logview.episode_parts import read_sequences
from astuner.logview.keep import as_kept_file
from astuner.logview.reading.query import EpisodeQuery
from astuner.logview.site import Site, as_data
from astuner.logview.view.conversation import Conversation, SaidCall, read_conversation
from astuner.logview.view.folding import OPEN_CHARACTERS, SHOWN_CHARACTERS, first_line, shown_text
from astuner.logview.view.time_drawing import WIDTH, drawn_lanes, time_sentence
from astuner.logview.view.timeline import read_timeline
from astuner.logview.view.token_page import WINDOW, TokenWindow, token_window
from astuner.logview.view.tokens import Fate, ShownSequence
from astuner.logview.view.verdict import read_verdict

if TYPE_CHECKING:
    from astuner.logview.reading.row import EpisodeRow
    from astuner.logview.reading.run_reader import RunReader

_NUM_CALLS = 50
"""On a page."""
_MOST_SIBLINGS = 200
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
        around = _around(request, run, row)
        if row.problem is not None:
            return _unreadable(site, request, run, row, row.problem, around)
        try:
            return _episode(site, request, run, row, around)
        except UnreadableError as error:
            return _unreadable(site, request, run, row, str(error), around)

    yield Route("/runs/{experiment}/{start}/episodes/{episode_id}", page)


def _episode(
    site: Site, request: Request, run: "RunReader", row: "EpisodeRow", around: dict[str, Any]
) -> Response:
    is_kept = request.query_params.get("keep") == "1"
    amounts = KEPT if is_kept else SERVED
    stored = run.index.read(row)
    episode = stored.episode
    conversation = read_conversation(episode)
    sequences = read_sequences(run, stored, is_flat=_is_flat(around["siblings"], episode.verdict))
    window = _window(request, run, sequences, amounts)
    timeline = read_timeline(episode)
    colour = request.query_params.get("colour", "")
    answer = site.page(
        request,
        "episode.html",
        run=run,
        row=row,
        **around,
        conversation=conversation,
        page=_calls(request, run, row, conversation, amounts),
        speaker=request.query_params.get("speaker"),
        verdict=read_verdict(episode),
        episode=episode,
        sequences=sequences,
        advantages=_advantages(sequences),
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
        is_kept=is_kept,
        at=partial(_at, request),
        whole_at=partial(part_of, run.name, "episodes", row.episode_id, "whole"),
        tokens_at=partial(part_of, run.name, "episodes", row.episode_id),
        shown=partial(shown_text, num_open=amounts.open_characters, limit=amounts.characters),
        first_line=first_line,
    )
    return as_kept_file(bytes(answer.body).decode(), row.episode_id) if is_kept else answer


def _unreadable(
    site: Site,
    request: Request,
    run: "RunReader",
    row: "EpisodeRow",
    problem: str,
    around: dict[str, Any],
) -> Response:
    return site.page(
        request,
        "episode_unreadable.html",
        status=422,
        run=run,
        row=row,
        problem=problem,
        record_at=part_of(run.name, "episodes", row.episode_id, "record"),
        **around,
    )


def _around(request: Request, run: "RunReader", row: "EpisodeRow") -> dict[str, Any]:
    """Where the keys lead: within the query, to the siblings, and up."""
    query = asked_query(request.query_params)
    text = request.query_params.get("q")
    carried = query_address(query) | ({"q": text} if text else {})
    is_searched = asks_for_some(query) or bool(text)
    within = (
        query if is_searched else replace(query, step=row.step, is_validation=row.is_validation)
    )
    beside = run.index.neighbours(row.episode_id, within)
    of_task = EpisodeQuery(step=row.step, is_validation=row.is_validation, task_id=row.task_id)
    group = [row] if row.problem else run.index.rows(of_task, limit=_MOST_SIBLINGS, offset=0).rows
    ids = [one.episode_id for one in group]
    place = ids.index(row.episode_id) if row.episode_id in ids else 0

    def episode(episode_id: str | None) -> str | None:
        return episode_id and episode_at(run.name, episode_id, **carried)

    def beside_at(to: str, episode_id: str | None) -> str | None:
        """With a text to be found, whether the neighbour says it is looked up when it is asked."""
        if not text or episode_id is None:
            return episode(episode_id)
        return part_of(run.name, "episodes", row.episode_id, "beside", to=to, **carried)

    rewards = [one.reward for one in group if one.reward is not None]
    return {
        "siblings": group,
        "group_mean": sum(rewards) / len(rewards) if rewards else None,
        "num_rewards": len(rewards),
        "previous": beside_at("previous", beside.previous_id),
        "next": beside_at("next", beside.next_id),
        "left": episode(ids[place - 1]) if place else None,
        "right": episode(ids[place + 1]) if place + 1 < len(ids) else None,
        "is_searched": is_searched,
        "carried": carried,
        "search_at": part_of(run.name, "episodes", **carried) + "#search",
        "step_address": step_at(run.name, row.step, is_validation=row.is_validation),
        "group_address": group_at(run.name, row.step, row.task_id, is_validation=row.is_validation),
        "task_address": task_at(run.name, row.task_id),
        "sibling_at": episode,
    }


def _is_flat(siblings: Sequence["EpisodeRow"], verdict: Any) -> bool:
    """Whether all rewards of the group are one. Not said where roles have rewards of their own."""
    rewards = [one.reward for one in siblings if one.reward is not None]
    has_roles = verdict is not None and bool(verdict.rewards)
    return len(rewards) > 1 and not has_roles and len(set(rewards)) == 1


def _calls(
    request: Request,
    run: "RunReader",
    row: "EpisodeRow",
    conversation: Conversation,
    amounts: Amounts,
) -> CallsPage:
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


def _advantages(sequences: Sequence[ShownSequence]) -> list[tuple[str, float]]:
    """Of each agent that has one; of several different ones the sequence is named."""
    known = [(one.agent[0], one.advantage) for one in sequences if one.advantage is not None]
    return list(dict.fromkeys((name, value) for name, value in known if value is not None))


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
