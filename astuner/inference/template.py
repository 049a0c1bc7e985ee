"""Renders chat messages with the model's own template.

Owns the tokenizer, what ends a reply and the model's tool-call format. Knows no engine and no
episode. The tokenizer is any Hugging Face tokenizer with a chat template; nothing is imported here.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError

from astuner.errors import ConfigError, RequestError
from astuner.inference import channel_template
from astuner.inference.channels import is_unsettled, split_channels
from astuner.inference.encoding import LONGEST_BEGINNING, MAX_BEGINNINGS, Encoding
from astuner.inference.frozen_clock import reads_clock, with_frozen_clock
from astuner.inference.roles import fit_roles, probe_roles
from astuner.inference.template_kwargs import TemplateKwargs, check_kwargs
from astuner.inference.tools.call_fit import TemplateCalls, fit_calls, probe_calls
from astuner.inference.tools.detect import detect_format
from astuner.inference.tools.fold import FOLDED_FORMAT, fold_tools
from astuner.inference.tools.protocol import ParsedReply, ToolFormat
from astuner.inference.turn_end import TurnEnd, find_turn_end
from astuner.types import Completion, Message, Tool

_MAX_KEPT = 16
"""Other values of a template's names that are ready at a time: each agent has mostly one."""


@dataclass(frozen=True, slots=True)
class _Beginning:
    """A conversation before any reply, known again by what it is in JSON."""

    written: str
    messages: Sequence[Message] = field(compare=False)
    tools: Sequence[Tool] = field(compare=False)


class ChatTemplate:
    """A tokenizer's chat template, the end of its turns, and tool calls.

    A template that writes the time (`strftime_now`) writes that of its making in all
    conversations: where the clock went on, each call would rewrite what was said before.
    Raises ConfigError when the tokenizer has no usable template, or nothing would end a reply.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        extra_stop_ids: Iterable[int] = (),
        kwargs: TemplateKwargs | None = None,
        now: datetime | None = None,
    ) -> None:
        """`kwargs` are values that the template reads beside the conversation; `now` is the time
        that it writes, None for the time of its making."""
        self._tokenizer = tokenizer
        self.kwargs = kwargs or {}
        self._extra_stop_ids = tuple(extra_stop_ids)
        self._with_kwargs = lru_cache(_MAX_KEPT)(self._make_with_kwargs)
        self._known_text = lru_cache(MAX_BEGINNINGS)(self._beginning_text)
        _check_template(tokenizer)
        self.encoding = Encoding(tokenizer)
        written = str(tokenizer.chat_template)
        self._now = now or (datetime.now().astimezone() if reads_clock(written) else None)
        self._has_reasoning = "</think>" in written
        self._turn_end = find_turn_end(
            self._render_probe, self.encoding, bos=getattr(tokenizer, "bos_token", None)
        )
        self._roles = probe_roles(self._render_raw)
        self._writes_channels = channel_template.writes_channels(self._render_probe)
        self._opens_reasoning = self._has_reasoning and self._generation_prompt_opens_reasoning()
        ends = (*self._extra_stop_ids, tokenizer.eos_token_id, *self._turn_end.stop_ids)
        self.stop_ids = frozenset(id_ for id_ in ends if id_ is not None)
        if self._writes_channels:
            self._turn_end = channel_template.turn_end(self._turn_end)
            self.stop_ids = channel_template.stop_ids(self.stop_ids, self.encoding.specials)
        if not self.stop_ids and not self._turn_end.stop_text:
            raise ConfigError(
                f"model.path: nothing ends a reply: the tokenizer of {tokenizer.name_or_path!r} "
                f"has no eos_token, and its chat template writes {self._turn_end.text!r} behind "
                "one; set eos_token in tokenizer_config.json"
            )

    def with_kwargs(self, kwargs: TemplateKwargs) -> "ChatTemplate":
        """This template where it is given these values too; itself where there are none.

        Raises RequestError for names that it does not read, or that are not the caller's to give,
        and for values that it refuses.
        """
        if not kwargs:
            return self
        try:
            return self._with_kwargs(json.dumps(kwargs, sort_keys=True))
        except (ConfigError, RequestError, TypeError, ValueError) as error:
            raise RequestError(
                f"chat_template_kwargs: {error}", param="chat_template_kwargs"
            ) from error

    @property
    def written_at(self) -> datetime | None:
        """The time that it writes; None where it writes none."""
        return self._now

    def at(self, now: datetime) -> "ChatTemplate":
        """This template at another time."""
        return ChatTemplate(
            self._tokenizer, extra_stop_ids=self._extra_stop_ids, kwargs=self.kwargs, now=now
        )

    def _make_with_kwargs(self, kwargs: str) -> "ChatTemplate":
        given = json.loads(kwargs)
        check_kwargs(given, self._tokenizer)
        return ChatTemplate(
            self._tokenizer,
            extra_stop_ids=self._extra_stop_ids,
            kwargs={**self.kwargs, **given},
            now=self._now,
        )

    @cached_property
    def _native_format(self) -> ToolFormat | None:
        """The template's own tool format; asked for when tools are first offered.

        Raises ConfigError for a template whose format is not known.
        """
        return detect_format(self._render_raw)

    @cached_property
    def _calls(self) -> TemplateCalls:
        """Asked for when a conversation holds calls or results first."""
        return probe_calls(self._render_raw)

    @property
    def turn_end(self) -> TurnEnd:
        """What the template writes around a reply."""
        return self._turn_end

    @property
    def tool_format(self) -> ToolFormat:
        """How the model writes tool calls."""
        return self._native_format or FOLDED_FORMAT

    @property
    def describes_tools(self) -> bool:
        """Whether the template writes tools itself; else they stand in the system message."""
        return self._native_format is not None

    def tool_opening(self, name: str | None) -> str:
        """The text that begins a call of the tool `name`, or of any tool for None."""
        opening = self.tool_format.opening(name)
        return f"\n</think>\n\n{opening}" if self._opens_reasoning else opening

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[int, ...]:
        """Token ids of a whole conversation, ready for the model's next reply."""
        return self.encode(self.prompt_text(messages, tools))

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        """The conversation as the template writes it, ready for the model's next reply."""
        beginning = _beginning(messages, tools)
        if beginning is not None:
            return self._known_text(beginning)
        return self._render(messages, tools, add_generation_prompt=True)

    def _beginning_text(self, beginning: _Beginning) -> str:
        return self._render(beginning.messages, beginning.tools, add_generation_prompt=True)

    def answered_text(
        self, before: Sequence[Message], reply: Message, tools: Sequence[Tool]
    ) -> str:
        """The conversation up to the end of a reply."""
        return self._render([*before, reply], tools, add_generation_prompt=False)

    def ends_turn(self, completion: Completion, rest: str) -> bool:
        """Whether a reply is over before `rest` goes on behind it."""
        return completion.finish_reason == "stop" or rest.startswith(self._turn_end.text)

    def encode(self, text: str) -> tuple[int, ...]:
        return self.encoding.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; control tokens stay visible."""
        return self.encoding.decode(ids)

    def decode_reply(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """Text of ids that were sampled behind a prompt, without the end-of-turn token.

        Other control tokens stay visible.
        """
        said = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
        return self.encoding.decode_behind(prompt_ids, said)

    def split_reasoning(self, text: str) -> tuple[str, str]:
        """Split a reply into reasoning and answer; no reasoning for models that mark none."""
        if self._writes_channels:
            return split_channels(text)
        thinks = self._opens_reasoning or text.lstrip().startswith("<think>")
        if not (self._has_reasoning and thinks and "</think>" in text):
            return "", text
        reasoning, _, answer = text.partition("</think>")
        return reasoning.strip().removeprefix("<think>").strip("\n"), answer.lstrip("\n")

    def may_be_reasoning(self, text: str) -> bool:
        """Whether a reply that begins with `text` may still turn out to go on with reasoning."""
        if self._writes_channels:
            return is_unsettled(text)
        if not self._has_reasoning or "</think>" in text:
            return False
        start = text.lstrip()
        return self._opens_reasoning or start.startswith("<think>") or "<think>".startswith(start)

    def parse(self, text: str, tools: Sequence[Tool]) -> ParsedReply:
        """Find the tool calls in a reply, in the model's own format."""
        return self.tool_format.parse(text, tools)

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        *,
        add_generation_prompt: bool,
    ) -> str:
        listed, offered = list(messages), list(tools) or None
        has_calls = any(_is_about_tools(message) for message in messages)
        if (tools or has_calls) and self._native_format is None:
            listed, offered = fold_tools(listed, list(tools)), None
        elif has_calls and not self._writes_channels:
            listed = fit_calls(listed, self._calls)
        if self._writes_channels:
            listed = channel_template.fit_history(listed, str(self._tokenizer.chat_template))
        listed = fit_roles(listed, self._roles)
        return self._apply(listed, offered, add_generation_prompt=add_generation_prompt)

    def _render_raw(self, messages: list[Message], tools: list[Tool] | None) -> str:
        return self._apply(messages, tools, add_generation_prompt=False)

    def _render_probe(self, messages: list[Message], asks_for_reply: bool) -> str:
        return self._apply(messages, None, add_generation_prompt=asks_for_reply)

    def _apply(
        self, messages: list[Message], tools: list[Tool] | None, *, add_generation_prompt: bool
    ) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                messages,
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **self.kwargs,
                **self._frozen(tools),
            )
        except (TemplateError, TypeError, ValueError, KeyError, RecursionError) as error:
            roles = [message["role"] for message in messages]
            given = f" and chat_template_kwargs {dict(self.kwargs)}" if self.kwargs else ""
            raise RequestError(
                f"the model's chat template refused the conversation with roles {roles}{given}: "
                f"{error}",
                param="messages",
            ) from error

    def _frozen(self, tools: list[Tool] | None) -> dict[str, str]:
        if self._now is None:
            return {}
        template = self._tokenizer.get_chat_template(tools=tools)
        return {"chat_template": with_frozen_clock(template, self._now)}

    def _generation_prompt_opens_reasoning(self) -> bool:
        probe: list[Message] = [{"role": "user", "content": "probe"}]
        return self._apply(probe, None, add_generation_prompt=True).rstrip().endswith("<think>")


def _beginning(messages: Sequence[Message], tools: Sequence[Tool]) -> _Beginning | None:
    """None where there is a reply, where it is long, and for what JSON cannot hold."""
    if any(message["role"] == "assistant" for message in messages):
        return None
    try:
        written = json.dumps([[*messages], [*tools]])
    except (TypeError, ValueError, RecursionError):
        return None
    return _Beginning(written, messages, tools) if len(written) <= LONGEST_BEGINNING else None


def _is_about_tools(message: Message) -> bool:
    return message["role"] == "tool" or "tool_calls" in message


def _check_template(tokenizer: Any) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"model.path: the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
            "use an instruct model, or put a chat_template.jinja beside its tokenizer"
        )
