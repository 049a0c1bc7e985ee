"""A reply while it is being sampled: where it is to end, and what of it can already be told.

Pure bookkeeping over token ids and text. An engine's thread feeds `ReplyWatch`; nothing here waits,
renders or records. What is told early is always the beginning of what the finished reply says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from astuner.inference.encoding import HALF_CHARACTER
from astuner.inference.template import ChatTemplate
from astuner.types import FinishReason, Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """The next piece of a reply. All pieces of a kind, joined, are that part of the reply."""

    kind: Literal["text", "reasoning"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a reply ends before an end token."""

    num_ids: int
    """Sampled ids up to and with the one that completed the end."""
    text: str
    """What those say, without a stop string and what stands behind it."""
    stop: str | None
    """The caller's stop string; None where the reply ends otherwise."""
    finish_reason: FinishReason = "cut"
    """"stop" where the model wrote the template's end of turn in ordinary tokens."""


class GrowingText:
    """The text of token ids that come one by one, without half characters.

    `decode` of all ids begins with what `add` returned so far. `context` stands before them.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._window = list(context)
        """The ids behind the last whole character, with those before as their context."""
        self._num_context = len(self._window)
        self._num_told = len(decode(self._window)) if context else 0
        """Characters of the window that were returned."""

    def add(self, token: int) -> str:
        self._window.append(token)
        text = self._decode(self._window)
        whole = text.rstrip(HALF_CHARACTER)
        grown = whole[self._num_told :]
        self._num_told = max(self._num_told, len(whole))
        if whole == text and grown:
            self._window = self._window[self._num_context :]
            self._num_context = len(self._window)
            self._num_told = len(self._decode(self._window))
        return grown


class ReplyWatch:
    """Follows one reply, given its ids in order; called by one thread at a time.

    `stops` end the reply behind the token that completes one of them; with `only_one_call`, so does
    the end of the first tool call. `is_turn`: it answers a conversation, and no plain text, so that
    the template's end of turn ends it too. `tell` gets the deltas.
    """

    def __init__(
        self,
        template: ChatTemplate,
        *,
        prompt_ids: Sequence[int],
        opening: str,
        stops: Sequence[str],
        tools: Sequence[Tool],
        only_one_call: bool,
        is_turn: bool,
        tell: Callable[[Delta], None] | None,
    ) -> None:
        self.cut: Cut | None = None
        self.num_seen = 0
        self._template = template
        self._opening = opening
        self._turn_end = template.turn_end.stop_text if is_turn else None
        self._stops = [stop for stop in (*stops, self._turn_end) if stop]
        self._tools = tools
        self._call_end = template.tool_format.call_end if tools and only_one_call else None
        self._prompt_ids = prompt_ids
        self._is_turn = is_turn
        self._text = ""
        self._tell = tell
        self._num_offered = 0
        """Characters of the text that the teller has seen."""

    # Most replies are neither told nor ended by what they say.
    @cached_property
    def _growing(self) -> GrowingText:
        encoding = self._template.encoding
        return GrowingText(encoding.decode_few, encoding.anchor(self._prompt_ids))

    @cached_property
    def _teller(self) -> "Teller":
        return Teller(
            self._template,
            has_tools=bool(self._tools),
            stops=self._stops,
            is_turn=self._is_turn,
        )

    @property
    def may_end(self) -> bool:
        """Whether what the ids say may end the reply, so that they are to be seen early."""
        return bool(self._stops or self._call_end)

    def observe(self, ids: Sequence[int]) -> bool:
        """Take newly sampled ids; True once no more are wanted."""
        for token in ids:
            if self.cut is not None:
                return True
            self.num_seen += 1
            if token not in self._template.stop_ids:
                self._grow(token)
        if self._tell is not None and self.cut is None and len(self._text) > self._num_offered:
            self._num_offered = len(self._text)
            for delta in self._teller.take(self._opening + self._text):
                self._tell(delta)
        return self.cut is not None

    def finish(self, reasoning: str, text: str) -> None:
        """Tell what is left of the finished reply."""
        if self._tell is not None:
            for delta in self._teller.rest(reasoning, text):
                self._tell(delta)

    def _grow(self, token: int) -> None:
        grown = self._growing.add(token)
        before = len(self._text)
        self._text += grown
        if grown and self.may_end:
            self._find_end(before)

    def _find_end(self, num_searched: int) -> None:
        found = [
            (at, -len(stop), stop)
            for stop in self._stops
            if (at := self._text.find(stop, max(0, num_searched - len(stop) + 1))) >= 0
        ]
        if found:
            at, _, stop = min(found)
            is_end = stop == self._turn_end
            self.cut = Cut(
                num_ids=self.num_seen,
                text=self._text[:at],
                stop=None if is_end else stop,
                finish_reason="stop" if is_end else "cut",
            )
            return
        end = self._end_of_call(num_searched)
        if end is not None:
            self.cut = Cut(num_ids=self.num_seen, text=self._text[:end], stop=None)

    def _end_of_call(self, num_searched: int) -> int | None:
        """Where the first tool call ends, if it ends in what is new."""
        mark = self._call_end
        if mark is None:
            return None
        at = self._text.find(mark, max(0, num_searched - len(mark) + 1))
        while at >= 0:
            end = at + len(mark)
            _, answer = self._template.split_reasoning(self._opening + self._text[:end])
            if self._template.parse(answer, self._tools).tool_calls:
                return end
            at = self._text.find(mark, end)
        return None


class Teller:
    """Decides how much of a growing reply can be told.

    Held back: a thinking block until it is closed, since an unclosed one is plain text; what may be
    the beginning of a tool call, of a stop string or of the end of turn; and whitespace that a tool
    call would swallow.
    """

    def __init__(
        self,
        template: ChatTemplate,
        *,
        has_tools: bool,
        stops: Sequence[str],
        is_turn: bool,
    ) -> None:
        self._template = template
        self._starts = template.tool_format.starts if has_tools else ()
        self._ends = [*stops]
        if is_turn and template.turn_end.lead:
            self._ends.append(template.turn_end.lead + template.turn_end.mark)
        self._is_turn = is_turn
        self._num_reasoning = self._num_text = 0

    def take(self, raw: str) -> list[Delta]:
        """What can be told of a reply that begins with `raw`, beyond what was told."""
        raw = raw[: len(raw) - max((_overlap(raw, end) for end in self._ends), default=0)]
        if not self._is_turn:
            return self.rest("", raw)
        if self._template.turn_end.before.startswith(raw):
            return []
        raw = self._template.turn_end.content(raw, is_ended=False)
        if self._template.may_be_reasoning(raw):
            return []
        reasoning, answer = self._template.split_reasoning(raw)
        return self.rest(reasoning, self._before_call(answer))

    def rest(self, reasoning: str, text: str) -> list[Delta]:
        """What of reasoning and text was not told yet; from now on it counts as told."""
        deltas = []
        if len(reasoning) > self._num_reasoning:
            deltas.append(Delta(kind="reasoning", text=reasoning[self._num_reasoning :]))
            self._num_reasoning = len(reasoning)
        if len(text) > self._num_text:
            deltas.append(Delta(kind="text", text=text[self._num_text :]))
            self._num_text = len(text)
        return deltas

    def _before_call(self, answer: str) -> str:
        if not self._starts:
            return answer
        places = [at for start in self._starts if (at := answer.find(start)) >= 0]
        if places:
            return answer[: min(places)].rstrip()
        held = max(_overlap(answer, start) for start in self._starts)
        return answer[: len(answer) - held].rstrip()


def _overlap(text: str, mark: str) -> int:
    """How many last characters of the text may be the beginning of `mark`."""
    at = max(0, len(text) - len(mark) + 1)
    while (at := text.find(mark[0], at)) >= 0:
        if mark.startswith(text[at:]):
            return len(text) - at
        at += 1
    return 0
