"""The one path of a model call: request, prompt ids, engine, reply, record.

`TokenChat` serves one episode. Every shape in which a workflow gets its model (AgentScope model,
OpenAI client, HTTP) ends here. Owns the token limits and what is asked of the engine; where a
prompt stands among earlier calls is decided in `placement.py`. Owns no template text, no weights
and no reward.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from astuner.errors import EngineError
from astuner.inference.engine import Engine, Sampling
from astuner.inference.messages import Message, normalize_messages, tool_call_message
from astuner.inference.placement import JoiningPolicy, Placement, Placer
from astuner.inference.template import ChatTemplate
from astuner.inference.tool_calls import ParsedReply, ToolCall
from astuner.trajectory.recorder import Call, Recorder
from astuner.types import FinishReason

TOOL_CHOICES = ("auto", "none", "required")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One model call as an agent framework states it."""

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    """auto, none, required, or the name of one of the tools."""
    agent_name: str = "default_agent_name"
    target_tag: str = "default_target_tag"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """What the agent gets back."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_sampled_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLimits:
    """How long prompts and replies may be, in tokens."""

    max_model_len: int
    """Prompt and reply of one call together."""
    max_prompt_length: int
    """First prompt of each agent."""
    max_response_length: int
    """Everything behind the first prompt of an agent."""
    max_response_length_in_one_turn: int
    """New tokens of one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply as the madness checks see it."""

    parsed: ParsedReply
    tools: Sequence[Mapping[str, Any]]


class Chat(Protocol):
    """Answers the model calls of one episode."""

    recorder: Recorder

    async def complete(self, request: ChatRequest) -> ChatReply:
        """Raises EngineError for a request that cannot be answered."""
        ...


class TokenChat:
    """Answers the calls of one episode with an engine, token-exactly.

    `find_madness` judges each reply; a reason ends the episode at its next call when
    `ends_on_madness`. `is_trained` is False where another engine than the policy's answers.
    """

    def __init__(
        self,
        engine: Engine,
        template: ChatTemplate,
        recorder: Recorder,
        *,
        episode_id: str,
        sampling: Sampling,
        limits: TokenLimits,
        offers_tools: bool,
        find_madness: Callable[[Reply], str | None],
        ends_on_madness: bool,
        joining: JoiningPolicy | None = None,
        is_trained: bool = True,
    ) -> None:
        self.recorder = recorder
        self._is_trained = is_trained
        self._placer = Placer(template, recorder, joining or JoiningPolicy())
        self._engine = engine
        self._template = template
        self._sampling = sampling
        self._limits = limits
        self._offers_tools = offers_tools
        self._find_madness = find_madness
        self._ends_on_madness = ends_on_madness
        self._first_prompt_lengths: dict[tuple[str, str], int] = {}
        self._episode_id = episode_id
        self._call_indices = itertools.count()
        self._started = time.monotonic()

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.recorder.check_open()
        messages = normalize_messages(request.messages)
        tools = tuple(dict(tool) for tool in request.tools) if self._offers_tools else ()
        opening = self._opening(request.tool_choice, tools)
        placement = self._place(request, messages, tools, opening)
        room = self._room(request, len(placement.prompt_ids))
        if room <= 0:
            self.recorder.context_overflow = True
            return _empty_reply(len(placement.prompt_ids))
        return await self._sample(request, messages, tools, opening, placement, room)

    async def _sample(
        self,
        request: ChatRequest,
        messages: list[Message],
        tools: tuple[dict[str, Any], ...],
        opening: str,
        placement: Placement,
        room: int,
    ) -> ChatReply:
        limit = self._limits.max_response_length_in_one_turn
        sampling = replace(self._sampling, max_new_tokens=min(room, limit))
        started = time.monotonic()
        completion = await self._engine.generate(
            placement.prompt_ids, sampling, caller=self._episode_id, index=next(self._call_indices)
        )
        seconds = time.monotonic() - started
        if completion.finish_reason == "length" and room <= limit:
            self.recorder.context_overflow = True
            completion = replace(completion, finish_reason="context_overflow")
        text = opening + self._template.decode_reply(completion.ids)
        reasoning, answer = self._template.split_reasoning(text)
        may_call = tools and request.tool_choice != "none"
        parsed = self._template.parse(answer, tools) if may_call else _plain(answer)
        parsed = _with_ids(parsed, len(self.recorder.calls))
        broken = placement.broken
        self.recorder.add(
            Call(
                agent_name=request.agent_name,
                target_tag=request.target_tag,
                messages=tuple(messages),
                tools=tools,
                prompt_ids=placement.prompt_ids,
                completion=completion,
                reply=_message(parsed, reasoning),
                temperature=sampling.temperature,
                extends=placement.extends,
                break_reason=broken.reason if broken else None,
                break_kind=broken.kind if broken else None,
                break_message=broken.message if broken else None,
                is_joined_by_text=placement.is_joined_by_text,
                num_drifted=placement.num_drifted,
                is_trained=self._is_trained,
                started_seconds=started - self._started,
                seconds=seconds,
            )
        )
        said = f"{reasoning}\n{parsed.text}" if reasoning else parsed.text
        self._check_madness(Reply(parsed=replace(parsed, text=said), tools=tools))
        return ChatReply(
            text=parsed.text,
            reasoning=reasoning,
            tool_calls=parsed.tool_calls,
            finish_reason=completion.finish_reason,
            num_prompt_tokens=len(placement.prompt_ids),
            num_sampled_tokens=len(completion.ids),
            seconds=seconds,
        )

    def _opening(self, tool_choice: str, tools: Sequence[Mapping[str, Any]]) -> str:
        """The text that forces a tool call; it is given to the model, so it is never trained."""
        if tool_choice in ("auto", "none"):
            return ""
        names = [tool["function"]["name"] for tool in tools]
        if not tools:
            return ""
        if tool_choice == "required":
            return self._template.tool_opening(names[0] if len(names) == 1 else None)
        if tool_choice not in names:
            raise EngineError(
                f"tool_choice is {tool_choice!r}; expected one of {[*TOOL_CHOICES, *names]}"
            )
        return self._template.tool_opening(tool_choice)

    def _place(
        self,
        request: ChatRequest,
        messages: list[Message],
        tools: tuple[dict[str, Any], ...],
        opening: str,
    ) -> Placement:
        agent = (request.agent_name, request.target_tag)
        return self._placer.place(agent, messages, tools, opening=opening)

    def _room(self, request: ChatRequest, num_prompt_tokens: int) -> int:
        """New tokens that fit into the context and into the agent's response budget.

        Raises EngineError when the agent's first prompt is too long.
        """
        agent = (request.agent_name, request.target_tag)
        first = self._first_prompt_lengths.setdefault(agent, num_prompt_tokens)
        if first > self._limits.max_prompt_length:
            raise EngineError(
                f"the first prompt of agent {request.agent_name!r} has {first} tokens; "
                f"data.max_prompt_length allows {self._limits.max_prompt_length}: raise it, or "
                "shorten the system prompt, the tools or the task"
            )
        budget = first + self._limits.max_response_length
        return min(self._limits.max_model_len, budget) - num_prompt_tokens

    def _check_madness(self, reply: Reply) -> None:
        found = self._find_madness(reply)
        if found is None:
            return
        self.recorder.madness = self.recorder.madness or found
        if self._ends_on_madness:
            self.recorder.ended = self.recorder.ended or f"madness: {found}"


def _plain(text: str) -> ParsedReply:
    return ParsedReply(text=text, tool_calls=(), malformed=())


def _with_ids(parsed: ParsedReply, call_index: int) -> ParsedReply:
    """Give each tool call an id that is unique in the episode and the same on every run."""
    calls = tuple(
        replace(call, id=f"call_{call_index}_{i}") for i, call in enumerate(parsed.tool_calls)
    )
    return replace(parsed, tool_calls=calls)


def _message(parsed: ParsedReply, reasoning: str) -> Message:
    message: Message = {"role": "assistant", "content": parsed.text}
    if reasoning:
        message["reasoning_content"] = reasoning
    if parsed.tool_calls:
        message["tool_calls"] = [tool_call_message(call) for call in parsed.tool_calls]
    return message


def _empty_reply(num_prompt_tokens: int) -> ChatReply:
    return ChatReply(
        text="",
        reasoning="",
        tool_calls=(),
        finish_reason="context_overflow",
        num_prompt_tokens=num_prompt_tokens,
        num_sampled_tokens=0,
        seconds=0.0,
    )
