"""The one path of a model call: request, prompt ids, engine, reply, record.

`TokenChat` serves one episode. Every shape in which a workflow gets its model (AgentScope model,
OpenAI client, HTTP) ends here. Owns what is asked of the engine and what is recorded. Where a
prompt stands among earlier calls is decided in `placement.py`, how much room it has in `limits.py`,
and whether a demanded format is asked for again in `repair.py`.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from astuner.engine.protocol import Engine, Sampling
from astuner.errors import RequestError
from astuner.inference.answer_format import FormatCheck, format_problem
from astuner.inference.aside import Lane
from astuner.inference.deltas import FollowedReply, tell_all
from astuner.inference.encoding import TooLong
from astuner.inference.limits import TokenLimits, TokenRoom
from astuner.inference.messages import assistant_message, copy_tools, normalize_messages
from astuner.inference.placement import PLAIN_TEXT, JoiningPolicy, Placement, Placer
from astuner.inference.repair import answer_in_format
from astuner.inference.request import TOOL_CHOICES, ChatReply, ChatRequest, OnDelta
from astuner.inference.sampled_tokens import sampled_tokens
from astuner.inference.template import ChatTemplate
from astuner.inference.tools.check import check_tools
from astuner.inference.tools.protocol import ParsedReply
from astuner.inference.watch import Cut, Delta, ReplyWatch
from astuner.inference.weight import weight
from astuner.trajectory.recorder import Call, Recorder
from astuner.types import Completion, Message, Tool

_LONG_REQUEST = 50_000
"""Weight of a request that is put into tokens beside the event loop: some 10 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A reply as the madness checks see it."""

    parsed: ParsedReply
    tools: Sequence[Tool]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """A request, ready for the engine."""

    request: ChatRequest
    template: ChatTemplate
    """With the values that the request gives it."""
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    opening: str
    """The end of the prompt, which the reply goes on from."""
    placement: Placement
    room: int
    """New tokens that fit behind it; none where it is 0 or less."""
    when_valid: FormatCheck
    """What a reply in the demanded format is called."""

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        return self.tools if self.request.tool_choice != "none" else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Generated:
    """What the engine gave for one call."""

    completion: Completion
    cut: Cut | None
    """Where the caller wanted no more."""
    started: float
    """By `time.monotonic`."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What the model said, taken apart."""

    reasoning: str
    parsed: ParsedReply
    format_check: FormatCheck | None


class TokenChat:
    """Answers the calls of one episode with an engine, token-exactly.

    `find_madness` judges each reply; a reason ends the episode at its next call when
    `ends_on_madness`. `checks_tools`: it holds arguments to the tools' schemas, so that a tool
    without a valid one is refused before anything is sampled. `is_trained` is False where another
    engine than the policy's answers. `tool_call_prefix` begins the ids of tool calls.
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
        tool_call_prefix: str = "call",
    ) -> None:
        self.recorder = recorder
        self._tool_call_prefix = tool_call_prefix
        self._is_trained = is_trained
        self._placer = Placer(template, recorder, joining or JoiningPolicy())
        self._engine = engine
        self._template = template
        self._sampling = sampling
        self._limits = limits
        self._room = TokenRoom(limits, recorder.calls)
        self._offers_tools = offers_tools
        self._find_madness = find_madness
        self._ends_on_madness = ends_on_madness
        self._checks_tools = checks_tools
        self._lane = Lane()
        self._episode_id = episode_id
        self._call_indices = itertools.count()
        self._started = time.monotonic()

    async def complete(self, request: ChatRequest, *, on_delta: OnDelta | None = None) -> ChatReply:
        if request.answer_format is None:
            return await self._answer(request, on_delta=on_delta)
        # What can still be replaced is not told.
        reply = await answer_in_format(
            request, request.answer_format, self._answer, self._lane.checked
        )
        if request.is_taken:
            self.recorder.take(reply.calls)
        tell_all(reply, on_delta)
        return reply

    async def _answer(
        self,
        request: ChatRequest,
        when_valid: FormatCheck = "validated",
        *,
        on_delta: OnDelta | None = None,
    ) -> ChatReply:
        self.recorder.check_open()
        template = self._template.with_kwargs(request.chat_template_kwargs)
        tools = self._offered(request, template)
        if self._checks_tools:
            await self._lane.checked(check_tools, tools)
        try:
            prompt = await self._placed(request, template, tools, when_valid)
        except TooLong as error:
            self._room.refuse_first(request.agent, error.num_tokens)
            return self._overflow(request, error.num_tokens)
        if prompt.room <= 0:
            return self._overflow(request, len(prompt.placement.prompt_ids))
        followed = FollowedReply(partial(self._watch, prompt), on_delta)
        generated = await self._sample(prompt, followed)
        said = await self._read(prompt, generated)
        index = self._record(prompt, generated, said)
        await self._check_madness(index, prompt, said)
        followed.tell_rest(said.reasoning, said.parsed.text)
        return self._reply(index, prompt, generated, said)

    async def _placed(
        self,
        request: ChatRequest,
        template: ChatTemplate,
        tools: tuple[Tool, ...],
        when_valid: FormatCheck,
    ) -> _Prompt:
        """`_place`, in a thread where that takes long."""
        asked = [request.prompt, list(request.messages), list(tools)]
        if weight(asked, _LONG_REQUEST) == _LONG_REQUEST:
            return await self._lane.in_thread(self._place, request, template, tools, when_valid)
        async with self._lane.alone():
            return self._place(request, template, tools, when_valid)

    def _place(
        self,
        request: ChatRequest,
        template: ChatTemplate,
        tools: tuple[Tool, ...],
        when_valid: FormatCheck,
    ) -> _Prompt:
        """Put the request into tokens, behind the call that it continues."""
        max_tokens = self._room.most(request.agent)
        opening = self._opening(request.tool_choice, tools, template)
        if request.prompt is not None:
            messages: list[Message] = [{"role": PLAIN_TEXT, "content": request.prompt}]
            placement = self._placer.place_text(
                request.agent, request.prompt, max_tokens=max_tokens
            )
        else:
            messages = normalize_messages(request.messages)
            placement = self._placer.place(
                request.agent,
                messages,
                tools,
                opening=opening,
                max_tokens=max_tokens,
                template=template,
            )
        return _Prompt(
            request=request,
            template=template,
            messages=tuple(messages),
            tools=tools,
            opening=opening,
            placement=placement,
            room=self._room.left(
                request.agent, len(placement.prompt_ids), extends=placement.extends
            ),
            when_valid=when_valid,
        )

    def _offered(self, request: ChatRequest, template: ChatTemplate) -> tuple[Tool, ...]:
        tools = copy_tools(request.tools) if self._offers_tools else ()
        if tools and request.only_one_call and template.tool_format.call_end is None:
            raise RequestError(
                f"parallel_tool_calls: this model writes all calls of a reply as one list "
                f"({template.tool_format.name}), which cannot end behind the first; leave "
                "it out",
                param="parallel_tool_calls",
            )
        return tools

    def _overflow(self, request: ChatRequest, num_prompt_tokens: int) -> ChatReply:
        self.recorder.overflowed.add(request.agent)
        return _empty_reply(request, num_prompt_tokens)

    def _watch(self, prompt: _Prompt, tell: Callable[[Delta], None] | None) -> ReplyWatch:
        return ReplyWatch(
            prompt.template,
            prompt_ids=prompt.placement.prompt_ids,
            opening=prompt.opening,
            stops=prompt.request.stops,
            tools=prompt.callable_tools,
            only_one_call=prompt.request.only_one_call,
            is_turn=prompt.request.prompt is None,
            tell=tell,
        )

    async def _sample(self, prompt: _Prompt, followed: FollowedReply) -> _Generated:
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
                stop_ids=prompt.template.stop_ids,
            ),
            caller=self._episode_id,
            index=index,
            observe=followed.observe,
        )
        seconds = time.monotonic() - started
        followed.finish(completion)
        cut = followed.watch.cut
        if cut is not None:
            completion = completion.until(cut.num_ids, cut.finish_reason)
        elif completion.finish_reason == "length" and prompt.room <= limit:
            self.recorder.overflowed.add(request.agent)
            completion = replace(completion, finish_reason="context_overflow")
        return _Generated(completion=completion, cut=cut, started=started, seconds=seconds)

    async def _read(self, prompt: _Prompt, generated: _Generated) -> _Said:
        completion, cut, tools = generated.completion, generated.cut, prompt.callable_tools
        ids = prompt.placement.prompt_ids
        text = cut.text if cut else prompt.template.decode_reply(ids, completion.ids)
        reasoning, answer = "", text
        if prompt.request.prompt is None:
            is_ended = completion.finish_reason == "stop"
            text = prompt.template.turn_end.content(prompt.opening + text, is_ended=is_ended)
            reasoning, answer = prompt.template.split_reasoning(text)
        parsed = prompt.template.parse(answer, tools) if tools else _plain(answer)
        format_check = await self._lane.checked(_format_check, prompt, parsed)
        parsed = _with_ids(parsed, f"{self._tool_call_prefix}_{len(self.recorder.calls)}")
        return _Said(reasoning=reasoning, parsed=parsed, format_check=format_check)

    def _record(self, prompt: _Prompt, generated: _Generated, said: _Said) -> int:
        """Returns the index of the call."""
        request = prompt.request
        placement = self._placer.settle(
            request.agent, prompt.messages, prompt.tools, prompt.placement
        )
        broken = placement.broken
        call = Call(
            agent_name=request.agent_name,
            target_tag=request.target_tag,
            messages=prompt.messages,
            tools=prompt.tools,
            prompt_ids=placement.prompt_ids,
            completion=generated.completion,
            reply=assistant_message(
                said.parsed.text, reasoning=said.reasoning, tool_calls=said.parsed.tool_calls
            ),
            temperature=self._sampling.temperature,
            extends=placement.extends,
            break_reason=broken.reason if broken else None,
            break_kind=broken.kind if broken else None,
            break_message=broken.message if broken else None,
            is_joined_by_text=placement.is_joined_by_text,
            num_drifted=placement.num_drifted,
            is_trained=self._is_trained,
            started_seconds=generated.started - self._started,
            seconds=generated.seconds,
            format_check=said.format_check,
            chat_template_kwargs=prompt.template.kwargs if request.prompt is None else {},
        )
        return self.recorder.add(call, is_taken=request.is_taken)

    def _reply(self, index: int, prompt: _Prompt, generated: _Generated, said: _Said) -> ChatReply:
        completion, cut = generated.completion, generated.cut
        wants_tokens = prompt.request.wants_tokens
        return ChatReply(
            text=said.parsed.text,
            reasoning=said.reasoning,
            tool_calls=said.parsed.tool_calls,
            finish_reason=completion.finish_reason,
            num_prompt_tokens=len(prompt.placement.prompt_ids),
            num_sampled_tokens=len(completion.ids),
            seconds=generated.seconds,
            stop=cut.stop if cut else None,
            tokens=sampled_tokens(completion, self._template) if wants_tokens else None,
            format_check=said.format_check,
            calls=(index,),
        )

    def _opening(self, tool_choice: str, tools: Sequence[Tool], template: ChatTemplate) -> str:
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
            return template.tool_opening(names[0] if len(names) == 1 else None)
        if tool_choice not in names:
            raise RequestError(
                f"tool_choice is {tool_choice!r}; expected one of {[*TOOL_CHOICES, *names]}",
                param="tool_choice",
            )
        return template.tool_opening(tool_choice)

    async def _check_madness(self, index: int, prompt: _Prompt, said: _Said) -> None:
        """A mad reply is trained whether somebody got it or not: the verdict is about it."""
        parsed = said.parsed
        if said.reasoning:
            parsed = replace(parsed, text=f"{said.reasoning}\n{parsed.text}")
        found = await self._lane.checked(
            self._find_madness, Reply(parsed=parsed, tools=prompt.tools)
        )
        if found is None:
            return
        self.recorder.take([index])
        self.recorder.madness = self.recorder.madness or found
        if self._ends_on_madness:
            self.recorder.end(f"madness: {found}")


def _format_check(prompt: _Prompt, parsed: ParsedReply) -> FormatCheck | None:
    demanded = prompt.request.answer_format
    if demanded is None or parsed.tool_calls:
        return None
    return "invalid" if format_problem(parsed.text, demanded) else prompt.when_valid


def _plain(text: str) -> ParsedReply:
    return ParsedReply(text=text, tool_calls=(), malformed=())


def _with_ids(parsed: ParsedReply, prefix: str) -> ParsedReply:
    """Give each tool call an id that is unique in the episode and the same on every run."""
    if not parsed.tool_calls:
        return parsed
    calls = tuple(replace(call, id=f"{prefix}_{i}") for i, call in enumerate(parsed.tool_calls))
    return replace(parsed, tool_calls=calls)


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
