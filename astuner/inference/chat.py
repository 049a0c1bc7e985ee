"""The one path of a model call: request, prompt ids, engine, reply, record.

`TokenChat` serves one episode. Every shape in which a workflow gets its model (AgentScope model,
OpenAI client, HTTP) ends here. Owns the token limits and what is asked of the engine; where a
prompt stands among earlier calls is decided in `placement.py`. Owns no template text, no weights
and no reward.
"""

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from astuner.engine.protocol import Engine, Sampling
from astuner.errors import RequestError
from astuner.inference.answer_format import (
    AnswerFormat,
    FormatCheck,
    check_format,
    format_problem,
    repair_message,
)
from astuner.inference.messages import Message, normalize_messages, tool_call_message
from astuner.inference.placement import PLAIN_TEXT, JoiningPolicy, Placement, Placer
from astuner.inference.request import TOOL_CHOICES, ChatReply, ChatRequest, OnDelta, SampledToken
from astuner.inference.template import ChatTemplate
from astuner.inference.tool_calls import ParsedReply, check_tools
from astuner.inference.watch import Cut, Delta, ReplyWatch
from astuner.trajectory.recorder import Call, Recorder
from astuner.types import Completion


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """A request, ready for the engine."""

    request: ChatRequest
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    opening: str
    """The end of the prompt, which the reply goes on from."""
    placement: Placement
    room: int
    """New tokens that fit."""
    when_valid: FormatCheck
    """What a reply in the demanded format is called."""

    @property
    def callable_tools(self) -> tuple[dict[str, Any], ...]:
        return self.tools if self.request.tool_choice != "none" else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampled:
    """What the engine gave for one call."""

    completion: Completion
    cut: Cut | None
    """Where the caller wanted no more."""
    started: float
    seconds: float


class TokenChat:
    """Answers the calls of one episode with an engine, token-exactly.

    `find_madness` judges each reply; a reason ends the episode at its next call when
    `ends_on_madness`. `checks_tools`: it holds arguments to the tools' schemas, so that a tool
    without a valid one is refused before anything is sampled. `is_trained` is False where another
    engine than the policy's answers.
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
        checks_tools: bool = False,
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
        self._checks_tools = checks_tools
        self._first_prompt_lengths: dict[tuple[str, str], int] = {}
        self._episode_id = episode_id
        self._call_indices = itertools.count()
        self._started = time.monotonic()

    async def complete(self, request: ChatRequest, *, on_delta: OnDelta | None = None) -> ChatReply:
        demanded = request.answer_format
        if demanded is None:
            return await self._answer(request, on_delta)
        check_format(demanded)
        # What can still be replaced is not told. Should the repair fail, nobody gets any of it.
        untaken = replace(request, is_taken=False)
        reply = await self._answer(untaken, None)
        if reply.format_check == "invalid" and reply.num_sampled_tokens:
            reply = await self._repair(untaken, reply, demanded)
        if request.is_taken:
            self.recorder.take(reply.calls)
        tell_all(reply, on_delta)
        return reply

    async def _repair(
        self, request: ChatRequest, first: ChatReply, demanded: AnswerFormat
    ) -> ChatReply:
        """Ask once more in the same conversation; the counts are those of both calls.

        Without room for that the first reply stands.
        """
        said = _message(_plain(first.text), first.reasoning)
        messages = [*request.messages, said, repair_message(first.text, demanded)]
        second = await self._answer(
            replace(request, messages=messages), None, when_valid="repaired"
        )
        if not second.num_sampled_tokens:
            return first
        return replace(
            second,
            calls=first.calls + second.calls,
            num_prompt_tokens=first.num_prompt_tokens + second.num_prompt_tokens,
            num_sampled_tokens=first.num_sampled_tokens + second.num_sampled_tokens,
            seconds=first.seconds + second.seconds,
        )

    async def _answer(
        self,
        request: ChatRequest,
        on_delta: OnDelta | None,
        *,
        when_valid: FormatCheck = "validated",
    ) -> ChatReply:
        self.recorder.check_open()
        tools = tuple(dict(tool) for tool in request.tools) if self._offers_tools else ()
        if tools and request.only_one_call and self._template.tool_format.call_end is None:
            raise RequestError(
                f"parallel_tool_calls: this model writes all calls of a reply as one list "
                f"({self._template.tool_format.name}), which cannot end behind the first; leave "
                "it out",
                param="parallel_tool_calls",
            )
        if self._checks_tools:
            check_tools(tools)
        opening = self._opening(request.tool_choice, tools)
        agent = (request.agent_name, request.target_tag)
        if request.prompt is not None:
            messages = [{"role": PLAIN_TEXT, "content": request.prompt}]
            placement = self._placer.place_text(agent, request.prompt)
        else:
            messages = normalize_messages(request.messages)
            placement = self._placer.place(agent, messages, tools, opening=opening)
        room = self._room(request, len(placement.prompt_ids))
        if room <= 0:
            self.recorder.overflowed.add(agent)
            return _empty_reply(request, len(placement.prompt_ids))
        prompt = _Prompt(
            request=request,
            messages=tuple(messages),
            tools=tools,
            opening=opening,
            placement=placement,
            room=room,
            when_valid=when_valid,
        )
        deltas = _DeltaQueue(on_delta) if on_delta else None
        watch = self._watch(prompt, tell=deltas.put if deltas else None)
        reply = self._record(prompt, await self._sample(prompt, watch))
        if deltas is not None:
            watch.finish(reply.reasoning, reply.text)
            deltas.empty()
        return reply

    def _watch(self, prompt: _Prompt, *, tell: Callable[[Delta], None] | None) -> ReplyWatch:
        return ReplyWatch(
            self._template,
            opening=prompt.opening,
            stops=prompt.request.stops,
            tools=prompt.callable_tools,
            only_one_call=prompt.request.only_one_call,
            splits_reasoning=prompt.request.prompt is None,
            tell=tell,
        )

    async def _sample(self, prompt: _Prompt, watch: ReplyWatch) -> _Sampled:
        """Ask the engine, and cut what it sampled where the caller wanted no more."""
        request, limits = prompt.request, self._limits
        limit = min(limits.max_response_length_in_one_turn, request.max_new_tokens or prompt.room)
        # Indices of calls are not negative, so seeds do not meet them.
        index = next(self._call_indices) if request.seed is None else -1 - request.seed
        started = time.monotonic()
        completion = await self._engine.generate(
            prompt.placement.prompt_ids,
            replace(
                self._sampling,
                max_new_tokens=min(prompt.room, limit),
                num_top_logprobs=request.num_top_logprobs,
            ),
            caller=self._episode_id,
            index=index,
            observe=watch.observe if watch.is_needed else None,
        )
        seconds = time.monotonic() - started
        if watch.is_needed:
            watch.observe(completion.ids[watch.num_seen :])
        if watch.cut is not None:
            completion = completion.until(watch.cut.num_ids, "cut")
        elif completion.finish_reason == "length" and prompt.room <= limit:
            self.recorder.overflowed.add((request.agent_name, request.target_tag))
            completion = replace(completion, finish_reason="context_overflow")
        return _Sampled(completion=completion, cut=watch.cut, started=started, seconds=seconds)

    def _record(self, prompt: _Prompt, sampled: _Sampled) -> ChatReply:
        """Parse the reply, note the call, and look for madness."""
        request, completion, cut = prompt.request, sampled.completion, sampled.cut
        text = cut.text if cut else self._template.decode_reply(completion.ids)
        reasoning, answer = "", text
        if request.prompt is None:
            reasoning, answer = self._template.split_reasoning(prompt.opening + text)
        tools = prompt.callable_tools
        parsed = self._template.parse(answer, tools) if tools else _plain(answer)
        parsed = _with_ids(parsed, len(self.recorder.calls))
        check = _format_check(prompt, parsed)
        placement, broken = prompt.placement, prompt.placement.broken
        index = self.recorder.add(
            Call(
                agent_name=request.agent_name,
                target_tag=request.target_tag,
                messages=prompt.messages,
                tools=prompt.tools,
                prompt_ids=placement.prompt_ids,
                completion=completion,
                reply=_message(parsed, reasoning),
                temperature=self._sampling.temperature,
                extends=placement.extends,
                break_reason=broken.reason if broken else None,
                break_kind=broken.kind if broken else None,
                break_message=broken.message if broken else None,
                is_joined_by_text=placement.is_joined_by_text,
                num_drifted=placement.num_drifted,
                is_trained=self._is_trained,
                started_seconds=sampled.started - self._started,
                seconds=sampled.seconds,
                format_check=check,
            ),
            is_taken=request.is_taken,
        )
        said = parsed
        if reasoning:
            said = replace(parsed, text=f"{reasoning}\n{parsed.text}")
        self._check_madness(index, Reply(parsed=said, tools=prompt.tools))
        return ChatReply(
            text=parsed.text,
            reasoning=reasoning,
            tool_calls=parsed.tool_calls,
            finish_reason=completion.finish_reason,
            num_prompt_tokens=len(prompt.placement.prompt_ids),
            num_sampled_tokens=len(completion.ids),
            seconds=sampled.seconds,
            stop=cut.stop if cut else None,
            tokens=self._tokens(completion) if request.wants_tokens else None,
            format_check=check,
            calls=(index,),
        )

    def _tokens(self, completion: Completion) -> tuple[SampledToken, ...]:
        tops = completion.top_logprobs or ((),) * len(completion.ids)
        sampled = zip(completion.ids, completion.logprobs, tops, strict=True)
        return tuple(
            SampledToken(
                text=self._template.decode([token]),
                utf8=self._template.token_bytes(token),
                logprob=logprob,
                top=tuple(
                    SampledToken(
                        text=self._template.decode([other]),
                        utf8=self._template.token_bytes(other),
                        logprob=value,
                    )
                    for other, value in top
                ),
            )
            for token, logprob, top in sampled
            if token not in self._template.stop_ids
        )

    def _opening(self, tool_choice: str, tools: Sequence[Mapping[str, Any]]) -> str:
        """The text that forces a tool call; it is given to the model, so it is never trained."""
        if tool_choice in ("auto", "none"):
            return ""
        if not self._offers_tools:
            raise RequestError(
                f"tool_choice is {tool_choice!r}, but this run offers the model no tools; leave it "
                "out, or turn rollout.agentscope_disable_toolcalls off",
                param="tool_choice",
            )
        names = [tool["function"]["name"] for tool in tools]
        if not tools:
            return ""
        if tool_choice == "required":
            return self._template.tool_opening(names[0] if len(names) == 1 else None)
        if tool_choice not in names:
            raise RequestError(
                f"tool_choice is {tool_choice!r}; expected one of {[*TOOL_CHOICES, *names]}",
                param="tool_choice",
            )
        return self._template.tool_opening(tool_choice)

    def _room(self, request: ChatRequest, num_prompt_tokens: int) -> int:
        """New tokens that fit into the context and into the agent's response budget.

        Raises RequestError when the agent's first prompt is too long.
        """
        agent = (request.agent_name, request.target_tag)
        first = self._first_prompt_lengths.get(agent, num_prompt_tokens)
        if first > self._limits.max_prompt_length:
            raise RequestError(
                f"the first prompt of agent {request.agent_name!r} has {first} tokens; "
                f"data.max_prompt_length allows {self._limits.max_prompt_length}: raise it, or "
                "shorten the system prompt, the tools or the task",
                param="messages",
            )
        self._first_prompt_lengths[agent] = first
        budget = first + self._limits.max_response_length
        return min(self._limits.max_model_len, budget) - num_prompt_tokens

    def _check_madness(self, index: int, reply: Reply) -> None:
        """A mad reply is trained whether somebody got it or not: the verdict is about it."""
        found = self._find_madness(reply)
        if found is None:
            return
        self.recorder.take([index])
        self.recorder.madness = self.recorder.madness or found
        if self._ends_on_madness:
            self.recorder.end(f"madness: {found}")


class _DeltaQueue:
    """Carries deltas from the engine's thread to the event loop, in order."""

    def __init__(self, on_delta: OnDelta) -> None:
        self._on_delta = on_delta
        self._loop = asyncio.get_running_loop()
        self._deltas: deque[Delta] = deque()
        self._is_due = False
        """Whether the event loop is going to empty this."""

    def put(self, delta: Delta) -> None:
        self._deltas.append(delta)
        if self._is_due:
            return
        self._is_due = True
        # Where the event loop is gone, nobody listens.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.empty)

    def empty(self) -> None:
        self._is_due = False
        while self._deltas:
            self._on_delta(self._deltas.popleft())


def tell_all(reply: ChatReply, on_delta: OnDelta | None) -> None:
    """Tell a finished reply at once."""
    if on_delta is None:
        return
    if reply.reasoning:
        on_delta(Delta(kind="reasoning", text=reply.reasoning))
    if reply.text:
        on_delta(Delta(kind="text", text=reply.text))


def _format_check(prompt: _Prompt, parsed: ParsedReply) -> FormatCheck | None:
    demanded = prompt.request.answer_format
    if demanded is None or parsed.tool_calls:
        return None
    return "invalid" if format_problem(parsed.text, demanded) else prompt.when_valid


def _plain(text: str) -> ParsedReply:
    return ParsedReply(text=text, tool_calls=(), malformed=())


def _with_ids(parsed: ParsedReply, call_index: int) -> ParsedReply:
    """Give each tool call an id that is unique in the episode and the same on every run."""
    if not parsed.tool_calls:
        return parsed
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


def _empty_reply(request: ChatRequest, num_prompt_tokens: int) -> ChatReply:
    return ChatReply(
        text="",
        reasoning="",
        tool_calls=(),
        finish_reason="context_overflow",
        num_prompt_tokens=num_prompt_tokens,
        num_sampled_tokens=0,
        seconds=0.0,
        format_check="invalid" if request.answer_format else None,
    )
