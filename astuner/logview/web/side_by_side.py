"""Episodes read from their run and laid beside each other, as the pages of groups show them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from astuner.errors import UnreadableError
from astuner.logview.view.attempts import (
    Block,
    ShownAttempt,
    ShownMessage,
    blocks,
    compare_attempts,
    last_answer,
)
from astuner.logview.view.credit import Credit, credits_of
from astuner.logview.view.excerpt import excerpt
from astuner.logview.view.verdict import ShownVerdict, read_verdict
from astuner.trajectory.episode import Episode

if TYPE_CHECKING:
    from astuner.logview.reading.row import EpisodeRow
    from astuner.logview.reading.run_reader import RunReader
    from astuner.logview.reading.training import TrainedSample

MAX_LISTED_BYTES = 4 * 2**20
"""Of a record that is read for a line of a list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedRow:
    """An episode of a list, with the run that it is of."""

    run: "RunReader"
    row: "EpisodeRow"
    name: str
    """What it is called among those beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptCard:
    """An attempt beside others."""

    name: str
    run: "RunReader"
    row: "EpisodeRow"
    verdict: ShownVerdict
    said: ShownAttempt
    blocks: Sequence[Block]
    beside: str
    """The name of the attempt that it is compared with; empty for one alone."""
    is_first: bool
    """Whether it is the one that all others are compared with."""
    credits: Sequence[Credit]
    last_answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadCard:
    """An attempt whose record cannot be read."""

    name: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """Attempts as cards."""

    shared: Sequence[ShownMessage]
    """What all begin with."""
    cards: Sequence[AttemptCard]
    unread: Sequence[UnreadCard]
    num_different: int
    """How many of the cards say something else than all before them."""
    episodes: Sequence[Episode]
    """Of the cards, in their order."""

    @property
    def is_long(self) -> bool:
        """Whether a message is longer than a card shows."""
        shown = [message for card in self.cards for message in card.said.messages]
        parts = [part.text for message in (*self.shared, *shown) for part in message.parts]
        return any(excerpt(text) != excerpt(text, most=None) for text in parts)


def read_answer(run: "RunReader", episode_id: str) -> str | None:
    """What an episode ended with; None where it cannot be read, or only at length."""
    episode = read_small(run, episode_id)
    return episode and last_answer(episode)


def read_small(run: "RunReader", episode_id: str) -> Episode | None:
    """The episode, for a list of many; None where it cannot be read, or is too large for that."""
    row = run.index.locate(episode_id)
    if row is None or row.length > MAX_LISTED_BYTES:
        return None
    try:
        return run.index.read(row).episode
    except UnreadableError:
        return None


def side_by_side(places: Sequence[PlacedRow], *, first_id: str | None = None) -> SideBySide:
    """Read the episodes and compare each with the first of them, or with the one of that id."""
    read: list[tuple[PlacedRow, Episode]] = []
    unread: list[UnreadCard] = []
    for place in places:
        try:
            read.append((place, place.run.index.read(place.row).episode))
        except UnreadableError as error:
            unread.append(UnreadCard(name=place.name, why=str(error)))
    ids = [place.row.episode_id for place, _ in read]
    episodes = [episode for _, episode in read]
    first = ids.index(first_id) if first_id in ids else 0
    compared = compare_attempts(episodes, first=first)
    samples = _samples([place for place, _ in read])
    return SideBySide(
        shared=compared.shared,
        cards=[
            AttemptCard(
                name=place.name,
                run=place.run,
                row=place.row,
                verdict=read_verdict(episode),
                said=said,
                blocks=blocks(said, is_first=index == first),
                beside="" if said.beside is None else read[said.beside][0].name,
                is_first=index == first,
                credits=credits_of(samples[index], episode),
                last_answer=last_answer(episode),
            )
            for index, ((place, episode), said) in enumerate(
                zip(read, compared.attempts, strict=True)
            )
        ],
        unread=unread,
        num_different=compared.num_different,
        episodes=episodes,
    )


def _samples(places: Sequence[PlacedRow]) -> "list[list[TrainedSample]]":
    """What was trained of each; the file of a step is read once, and validations are in none."""
    asked: dict[tuple[RunReader, int], list[str]] = {}
    for place in places:
        if not place.row.is_validation:
            asked.setdefault((place.run, place.row.step), []).append(place.row.episode_id)
    found = {(run, step): run.trainings(step, ids) for (run, step), ids in asked.items()}

    def of(place: PlacedRow) -> "list[TrainedSample]":
        by_id = {} if place.row.is_validation else found[place.run, place.row.step]
        return by_id.get(place.row.episode_id, [])

    return [of(place) for place in places]
