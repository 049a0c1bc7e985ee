"""Joins the calls of an episode into sequences, by token ids alone.

A call continues another one of the same agent where its prompt begins with exactly the tokens that
the other saw and sampled, unless its record says why it does not. Calls form a tree; every path
from a root to a leaf is one sequence, and a sampled token that several paths share is trained in
the first of them only. Tokens of agents that are not trained stand in sequences too, and never are.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import chain

from astuner.trajectory.prefix_tree import PrefixTree
from astuner.trajectory.recorder import Agent, Call


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Consecutive tokens of one origin: given to the model, or sampled by it.

    Three sampled tokens:
    Span(ids=(9, 4, 2), logprobs=(-0.1, -2.0, -0.3), call=0, is_trained=True)
    """

    ids: tuple[int, ...]
    """Token ids, exactly as the engine saw or produced them."""
    logprobs: tuple[float, ...] | None
    """Natural log at sampling temperature, one per id; None for given tokens."""
    call: int
    """Index of the call that brought these tokens."""
    is_trained: bool
    """False for given tokens, for sampled ones that an earlier sequence trains, and for those of
    agents that are not trained."""

    def __post_init__(self) -> None:
        if self.logprobs is not None and len(self.logprobs) != len(self.ids):
            raise ValueError(f"{len(self.ids)} ids but {len(self.logprobs)} logprobs")
        if self.is_trained and self.logprobs is None:
            raise ValueError("given tokens cannot be trained")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """Tokens of one or more calls that extend each other, as `merge_calls` shows by example."""

    agent_name: str
    target_tag: str
    spans: tuple[Span, ...]

    @property
    def agent(self) -> Agent:
        return (self.agent_name, self.target_tag)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(chain.from_iterable(span.ids for span in self.spans))

    @property
    def mask(self) -> tuple[bool, ...]:
        """True exactly on the tokens that this sequence trains."""
        runs = ((span.is_trained,) * len(span.ids) for span in self.spans)
        return tuple(chain.from_iterable(runs))

    @property
    def logprobs(self) -> tuple[float, ...]:
        """One value per id, 0.0 where the mask is false."""
        runs = (
            span.logprobs if span.is_trained and span.logprobs else (0.0,) * len(span.ids)
            for span in self.spans
        )
        return tuple(chain.from_iterable(runs))

    @property
    def num_trained(self) -> int:
        return sum(len(span.ids) for span in self.spans if span.is_trained)

    @property
    def num_sampled(self) -> int:
        """Also those that an earlier sequence trains, or that nobody does."""
        return sum(len(span.ids) for span in self.spans if span.logprobs is not None)

    @property
    def calls(self) -> tuple[int, ...]:
        """Indices of the calls on this path, in order."""
        return tuple(dict.fromkeys(span.call for span in self.spans))


def merge_calls(calls: Seq[Call]) -> list[Sequence]:
    """Return the sequences of one episode, ordered by their last call.

    Calls without token ids (answered by a remote server) give none. Takes time linear in the tokens
    of the calls and of the sequences.

    Call 0 answers (1, 2) with (3, 4), and call 1 the prompt (1, 2, 3, 4, 5) with (6). Prompts that
    begin with all tokens of an earlier call continue it, so these are one sequence of four spans:

        ids      1 2    3 4      5      6
        origin   given  sampled  given  sampled
        call     0      0        1      1
        mask     F F    T T      F      T

    A call 2 that answers (1, 2, 3, 4, 7) with (8) branches off behind call 0. Its sequence holds
    call 0 too, and trains the 8 alone, since the first one trains 3 and 4:

        ids      1 2    3 4      7      8
        call     0      0        2      2
        mask     F F    F F      F      T
    """
    parents = _find_parents(calls)
    inner = set(parents)
    leaves = [i for i in range(len(calls)) if i not in inner and calls[i].prompt_ids]
    trained: set[int] = set()
    return [_sequence(calls, _path(parents, leaf), trained) for leaf in leaves]


def _find_parents(calls: Seq[Call]) -> list[int | None]:
    """For each call the earlier one of the same agent whose tokens its prompt begins with.

    The one that it was placed behind, else of several the one with the most tokens, and of equal
    ones the first. None for a call that is known to start a sequence.
    """
    trees: dict[Agent, PrefixTree[tuple[int, ...]]] = {}
    parents: list[int | None] = []
    for index, call in enumerate(calls):
        if not call.prompt_ids:
            parents.append(None)
            continue
        tree = trees.setdefault(call.agent, PrefixTree(()))
        if _extends_exactly(calls, index):
            parents.append(call.extends)
        elif call.break_reason is not None:
            parents.append(None)
        else:
            parents.append(tree.longest(call.prompt_ids))
        tree.add(call.ids, index, known=parents[index])
    return parents


def _extends_exactly(calls: Seq[Call], index: int) -> bool:
    """Whether the prompt begins with the tokens of the call that it was placed behind.

    A look at these ids in one go spares the walk through all calls of a long conversation.
    """
    call = calls[index]
    if call.extends is None or not 0 <= call.extends < index:
        return False
    earlier, start = calls[call.extends], len(calls[call.extends].prompt_ids)
    return (
        start > 0
        and earlier.agent == call.agent
        and call.prompt_ids[:start] == earlier.prompt_ids
        and call.prompt_ids[start : earlier.num_ids] == earlier.completion.ids
    )


def _path(parents: Seq[int | None], leaf: int) -> list[int]:
    path, current = [], leaf
    while current is not None:
        path.append(current)
        current = parents[current]
    return path[::-1]


def _sequence(calls: Seq[Call], path: Seq[int], trained: set[int]) -> Sequence:
    """Build the sequence of one path and note in `trained` the calls it trains."""
    spans: list[Span] = []
    length = 0
    for index in path:
        call = calls[index]
        given = call.prompt_ids[length:]
        if given:
            spans.append(Span(ids=given, logprobs=None, call=index, is_trained=False))
        if call.completion.ids:
            is_trained = call.is_trained and index not in trained
            spans.append(_sampled_span(call, index, is_trained=is_trained))
        length = call.num_ids
    trained.update(path)
    leaf = calls[path[-1]]
    return Sequence(agent_name=leaf.agent_name, target_tag=leaf.target_tag, spans=tuple(spans))


def _sampled_span(call: Call, index: int, *, is_trained: bool) -> Span:
    completion = call.completion
    return Span(ids=completion.ids, logprobs=completion.logprobs, call=index, is_trained=is_trained)
