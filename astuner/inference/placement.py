"""Where a call's prompt stands among the earlier calls of its episode.

A prompt that continues an earlier conversation of the same agent gets that call's token ids and
behind them what the template adds; any other is encoded anew, with the reason. Each call is placed
in time linear in what the agent sends, however many calls there were. Owns no tokens of its own, no
engine and no limits.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from astuner.inference.breaks import explain_break
from astuner.inference.encoding import TooLong
from astuner.inference.joint import Spoken, Written, rewrite_reason, text_behind
from astuner.inference.messages import message_key
from astuner.inference.template import ChatTemplate
from astuner.trajectory.prefix_tree import PrefixTree
from astuner.trajectory.recorder import Agent, Break, BreakKind, Call, Recorder
from astuner.types import Message, Tool

logger = logging.getLogger(__name__)

Tools = tuple[Tool, ...]

PLAIN_TEXT = "prompt"
"""The role of the one message of a call that sends text in place of a conversation."""

_MAX_TRIES = 3
"""Earlier calls that a prompt is tried behind where the template rewrites what was said. A template
that rewrites one turn mostly rewrites those before it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoiningPolicy:
    """Which calls are put behind earlier ones; see `context_tracker` in the settings."""

    joins_by_text: bool = False
    """Also where the messages differ but the template's text of them begins with the earlier
    call's text."""
    ignores_tools: bool = True
    """Calls with other tools continue each other where the template's text allows it."""
    logs_breaks: bool = False
    """Write a line where and why a call continues no earlier one of its agent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A prompt, and the earlier call that it continues."""

    prompt_ids: tuple[int, ...]
    extends: int | None
    broken: Break | None
    """Why this begins a sequence: no earlier call is continued, or one that another call went on
    from already. Until it is settled, why the nearest earlier call is not continued, if any."""
    is_joined_by_text: bool = False
    num_drifted: int = 0
    """Tokens that a fresh encoding of the same text would have otherwise; known where joined by
    text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remembered:
    """What is remembered of a prompt."""

    written: Written
    """What the template wrote for its messages."""
    template: ChatTemplate
    """That wrote it."""
    opening: str
    """What stands behind that: the beginning of the reply, where one was forced."""
    text: str | None
    """All that its ids say; None where calls are not joined by text."""


@dataclass(slots=True)
class _MessageNode:
    """One message in the tree of an agent's conversations, behind those of the nodes above it."""

    children: dict[tuple[str | None, ...], "_MessageNode"] = field(default_factory=dict)
    """By the `message_key` of their messages."""
    calls: dict[str, int] = field(default_factory=dict)
    """The calls whose conversation, with the reply, ends here: tools -> the newest call."""
    newest: int | None = None
    """The newest call whose conversation comes through here."""


class Placer:
    """Places the prompts of one episode. Reads the recorder, and never writes to it."""

    def __init__(self, template: ChatTemplate, recorder: Recorder, policy: JoiningPolicy) -> None:
        self._template = template
        self._recorder = recorder
        self._policy = policy
        self._remembered: dict[tuple[int, ...], _Remembered] = {}
        self._num_noticed = 0
        self._conversations: dict[Agent, _MessageNode] = {}
        self._texts: dict[Agent, PrefixTree[str]] = {}
        self._plain_texts: dict[Agent, PrefixTree[str]] = {}
        self._runs: dict[Agent, PrefixTree[tuple[int, ...]]] = {}
        self._continued: dict[int, int] = {}
        """A call -> the first that continues it."""

    def place(
        self,
        agent: Agent,
        messages: list[Message],
        tools: Tools,
        *,
        opening: str,
        max_tokens: int,
        template: ChatTemplate | None = None,
    ) -> Placement:
        """Continue the longest earlier conversation of the agent, else start a sequence.

        `opening` begins the reply for the model; `template` is the one that writes this prompt,
        with values of the call's own. Raises TooLong for a prompt that is longer than
        `max_tokens` by far, before all of it is encoded.
        """
        self._notice_calls()
        template = template or self._template
        text = template.prompt_text(messages, tools)
        broken = None
        for index in self._candidates(agent, messages, tools):
            continued = self._continue(index, messages, tools, text, opening, max_tokens, template)
            if isinstance(continued, Placement):
                return replace(continued, broken=broken)
            broken = broken or continued
        if self._policy.joins_by_text:
            joined = self._join_by_text(agent, text, opening, max_tokens, template)
            if joined is not None:
                return joined
        ids = self._template.encoding.encode_within(text, max_tokens)
        ids += self._template.encoding.encode_behind(ids, opening)
        self._remember(ids, text, opening, text + opening, template)
        return Placement(prompt_ids=ids, extends=None, broken=broken)

    def place_text(self, agent: Agent, prompt: str, *, max_tokens: int) -> Placement:
        """Continue the longest earlier text of the agent that this one begins with.

        A text that ended by itself cannot be continued: its end token is part of what was said.
        Raises TooLong like `place`.
        """
        self._notice_calls()
        tree = self._plain_texts.get(agent)
        index = tree.longest(prompt) if tree else None
        broken = None
        if index is not None:
            earlier = self._recorder.calls[index]
            if earlier.completion.finish_reason in ("length", "context_overflow"):
                ids = self._behind(earlier, prompt[len(_plain_text(earlier)) :], max_tokens)
                return Placement(prompt_ids=ids, extends=index, broken=None)
            broken = _TEXT_ENDED
        ids = self._template.encoding.encode_within(prompt, max_tokens)
        return Placement(prompt_ids=ids, extends=None, broken=broken)

    def settle(
        self, agent: Agent, messages: Sequence[Message], tools: Tools, placement: Placement
    ) -> Placement:
        """What became of a placed prompt, by the calls that stand before it in the record.

        A prompt that begins with all ids of an earlier call continues it, whatever its messages
        say; and of several that go on from one call, those behind the first begin a sequence, as
        does a prompt that continues none.
        """
        self._notice_calls()
        tree = self._runs.get(agent)
        if tree is None:
            return placement
        longest = tree.longest(placement.prompt_ids, known=placement.extends)
        if longest is not None and self._may_move(longest, tools, placement):
            is_by_text = not _begins_with(messages, self._recorder.calls[longest])
            placement = replace(placement, extends=longest, is_joined_by_text=is_by_text)
        broken = self._break(agent, messages, tools, placement)
        if broken and self._policy.logs_breaks:
            _log_break(agent, broken)
        return replace(placement, broken=broken)

    def _may_move(self, index: int, tools: Tools, placement: Placement) -> bool:
        """Whether a prompt that begins with the ids of this call goes on behind it, not inside."""
        earlier = self._recorder.calls[index]
        if index == placement.extends:
            return False
        if earlier.tools != tools and not self._policy.ignores_tools:
            return False
        rest = placement.prompt_ids[earlier.num_ids :]
        return self._template.ends_turn(
            earlier.completion, self._template.encoding.decode_behind(earlier.ids, rest)
        )

    def _break(
        self, agent: Agent, messages: Sequence[Message], tools: Tools, placement: Placement
    ) -> Break | None:
        extends = placement.extends
        if extends is None:
            return placement.broken or self._explain(agent, messages, tools)
        other = self._continued.get(extends)
        if other is None:
            return None
        if placement.broken is not None:
            return placement.broken
        reason = f"call {other + 1} went on from call {extends + 1} too"
        return Break(kind=BreakKind.BRANCHED, message=None, reason=reason)

    def _behind(self, earlier: Call, text: str, max_tokens: int) -> tuple[int, ...]:
        """The ids of a call and of what is said behind it."""
        room = max(0, max_tokens - earlier.num_ids)
        before = earlier.ids
        try:
            return before + self._template.encoding.encode_behind(before, text, room)
        except TooLong as error:
            raise TooLong(earlier.num_ids + error.num_tokens) from None

    def _continue(
        self,
        index: int,
        messages: list[Message],
        tools: Tools,
        text: str,
        opening: str,
        max_tokens: int,
        template: ChatTemplate,
    ) -> Placement | Break:
        earlier = self._recorder.calls[index]
        remembered = self._remembered[earlier.prompt_ids]
        said = Spoken(
            call=earlier,
            prompt=remembered.written,
            text=remembered.opening + self._sampled_text(earlier),
        )
        rest = text_behind(template, said, messages, tools, text)
        if rest is None:
            if remembered.template.kwargs != template.kwargs:
                return _KWARGS_CHANGED
            return self._template_break(said, messages, tools, text, template)
        ids = self._behind(earlier, rest, max_tokens)
        ids += self._template.encoding.encode_behind(ids, opening)
        known = self._text_of(earlier) + rest + opening if remembered.text else None
        self._remember(ids, text, opening, known, template)
        return Placement(prompt_ids=ids, extends=index, broken=None)

    def _template_break(
        self,
        said: Spoken,
        messages: list[Message],
        tools: Tools,
        text: str,
        template: ChatTemplate,
    ) -> Break:
        if said.call.tools != tools:
            return _TOOLS_CHANGED
        reason = rewrite_reason(template, said, messages, tools, text)
        return Break(kind=BreakKind.TEMPLATE, message=None, reason=reason)

    def _candidates(self, agent: Agent, messages: list[Message], tools: Tools) -> Iterator[int]:
        """Earlier calls that the messages continue, the one with the most messages first."""
        num_tries, offered = 0, _tools_key(tools)
        for node in reversed(self._path(agent, messages)):
            if not node.calls:
                continue
            if offered in node.calls:
                yield node.calls[offered]
            elif self._policy.ignores_tools:
                yield max(node.calls.values())
            else:
                continue
            num_tries += 1
            if num_tries == _MAX_TRIES:
                return

    def _path(self, agent: Agent, messages: Sequence[Message]) -> list[_MessageNode]:
        """The nodes of the messages, as far as an earlier conversation has them."""
        node, path = self._conversations.get(agent), []
        for message in messages:
            node = node and node.children.get(message_key(message))
            if node is None:
                break
            path.append(node)
        return path

    def _explain(self, agent: Agent, messages: Sequence[Message], tools: Tools) -> Break:
        """Against the newest of the calls that have the most messages in common with these."""
        path = self._path(agent, messages)
        root = self._conversations.get(agent)
        if root is None or messages[0]["role"] == PLAIN_TEXT:
            return _NEW_TEXT
        nearest = (path[-1] if path else root).newest
        assert nearest is not None
        earlier = self._recorder.calls[nearest]
        if len(path) > len(earlier.messages):
            return _TOOLS_CHANGED
        return explain_break(earlier, messages, num_same=len(path))

    def _join_by_text(
        self, agent: Agent, text: str, opening: str, max_tokens: int, template: ChatTemplate
    ) -> Placement | None:
        """Put the prompt behind the call whose text it begins with, and count the drift."""
        tree = self._texts.get(agent)
        index = tree.longest(text) if tree else None
        if index is None:
            return None
        earlier = self._recorder.calls[index]
        rest = text[len(self._text_of(earlier)) :]
        if not self._template.ends_turn(earlier.completion, rest):
            return None
        ids = self._behind(earlier, rest, max_tokens)
        num_drifted = _num_drifted(ids, self._template.encode(text))
        ids += self._template.encoding.encode_behind(ids, opening)
        self._remember(ids, text, opening, text + opening, template)
        return Placement(
            prompt_ids=ids,
            extends=index,
            broken=None,
            is_joined_by_text=True,
            num_drifted=num_drifted,
        )

    def _text_of(self, call: Call) -> str:
        return (self._remembered[call.prompt_ids].text or "") + self._sampled_text(call)

    def _sampled_text(self, call: Call) -> str:
        return self._template.encoding.decode_behind(call.prompt_ids, call.completion.ids)

    def _remember(
        self,
        ids: tuple[int, ...],
        written: str,
        opening: str,
        text: str | None,
        template: ChatTemplate,
    ) -> None:
        self._remembered[ids] = _Remembered(
            written=Written.of(written),
            template=template,
            opening=opening,
            text=text if self._policy.joins_by_text else None,
        )

    def _notice_calls(self) -> None:
        """Learn the calls that were answered since; others than own ones cannot be continued."""
        calls = self._recorder.calls
        for index in range(self._num_noticed, len(calls)):
            if calls[index].messages[0]["role"] == PLAIN_TEXT:
                texts = self._plain_texts.setdefault(calls[index].agent, PrefixTree(""))
                texts.add(_plain_text(calls[index]), index)
            elif calls[index].prompt_ids in self._remembered:
                self._notice(index, calls[index])
            if calls[index].prompt_ids:
                self._notice_ids(index, calls[index])
        self._num_noticed = len(calls)

    def _notice_ids(self, index: int, call: Call) -> None:
        self._runs.setdefault(call.agent, PrefixTree(())).add(call.ids, index, known=call.extends)
        if call.extends is not None:
            self._continued.setdefault(call.extends, index)

    def _notice(self, index: int, call: Call) -> None:
        node = self._conversations.setdefault(call.agent, _MessageNode())
        node.newest = index
        for message in (*call.messages, call.reply):
            node = node.children.setdefault(message_key(message), _MessageNode())
            node.newest = index
        node.calls[_tools_key(call.tools)] = index
        if self._policy.joins_by_text:
            self._texts.setdefault(call.agent, PrefixTree("")).add(self._text_of(call), index)


_TOOLS_CHANGED = Break(kind=BreakKind.TOOLS, message=None, reason="the offered tools changed")


_KWARGS_CHANGED = Break(
    kind=BreakKind.TEMPLATE, message=None, reason="the call's chat_template_kwargs are others"
)


_TEXT_ENDED = Break(
    kind=BreakKind.ENDED,
    message=None,
    reason="the earlier text had ended, and the agent goes on from it",
)


_NEW_TEXT = Break(kind=BreakKind.UNRELATED, message=0, reason="a new text")


def _begins_with(messages: Sequence[Message], earlier: Call) -> bool:
    said = (*earlier.messages, earlier.reply)
    return [*map(message_key, messages[: len(said)])] == [*map(message_key, said)]


def _plain_text(call: Call) -> str:
    """Prompt and reply of a call that sent text."""
    return call.messages[0]["content"] + call.reply["content"]


def _log_break(agent: Agent, broken: Break) -> None:
    logger.info(
        "sequence ends agent=%s target=%s kind=%s message=%s reason=%s",
        *agent,
        broken.kind,
        broken.message,
        broken.reason,
    )


def _tools_key(tools: Sequence[Tool]) -> str:
    return json.dumps(tools, sort_keys=True, default=str) if tools else ""


def _num_drifted(ids: tuple[int, ...], fresh: tuple[int, ...]) -> int:
    """How many of `ids` are not in the common beginning or the common end of both."""
    shortest = min(len(ids), len(fresh))
    start = next((i for i in range(shortest) if ids[i] != fresh[i]), shortest)
    end = next((i for i in range(shortest - start) if ids[-1 - i] != fresh[-1 - i]), None)
    return len(ids) - start - (shortest - start if end is None else end)
