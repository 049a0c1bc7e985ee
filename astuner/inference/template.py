"""Renders chat messages with the model's own template, and extends token ids by what is new.

Owns the tokenizer, the end-of-turn tokens and the model's tool-call format. Knows no engine and no
episode. The tokenizer is any Hugging Face tokenizer with a chat template; nothing is imported here.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from os.path import commonprefix
from typing import Any, NamedTuple, Self

from jinja2 import TemplateError

from astuner.errors import ConfigError, RequestError
from astuner.inference import channel_template
from astuner.inference.channels import is_unsettled, split_channels
from astuner.inference.roles import fit_roles, probe_roles
from astuner.inference.template_kwargs import TemplateKwargs, check_kwargs
from astuner.inference.token_bytes import spelled_bytes
from astuner.inference.tools.detect import detect_format
from astuner.inference.tools.fold import FOLDED_FORMAT, fold_tools
from astuner.inference.tools.protocol import ParsedReply, ToolFormat
from astuner.types import Completion, Message, Tool

_MARK = "astuner-probe-reply"
_MAX_KEPT = 16
"""Other values of a template's names that are ready at a time: each agent has mostly one."""
_READ_WHOLE = 100_000
"""Characters of a text that are encoded without a look at its beginning, some 30 ms."""
_TYPICAL_CHARACTERS = 8
"""Of a token, generously: a text with more of them is looked at again, further on."""
_SEAM_TOKENS = 64
"""By which cutting a text may change the number of its tokens."""


class TooLong(Exception):
    """A text has more tokens than there is room for."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__(num_tokens)
        self.num_tokens = num_tokens
        """At least; the rest of the text was not looked at."""


class Written(NamedTuple):
    """A text that is known again but not kept, since every call of a conversation has a longer one.

    Texts of the same length and hash are taken as the same.
    """

    length: int
    digest: int

    @classmethod
    def of(cls, text: str) -> Self:
        return cls(len(text), hash(text))

    def begins(self, text: str) -> bool:
        return len(text) >= self.length and hash(text[: self.length]) == self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """What a template adds behind a reply."""

    text: str | None
    """None where the template does not leave what stands before as it was."""


class ChatTemplate:
    """A tokenizer's chat template with append-only extension and tool calls.

    Raises ConfigError when the tokenizer has no usable template.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        extra_stop_ids: Iterable[int] = (),
        kwargs: TemplateKwargs | None = None,
    ) -> None:
        """`kwargs` are values that the template reads beside the conversation."""
        self._tokenizer = tokenizer
        self.kwargs = kwargs or {}
        self._extra_stop_ids = tuple(extra_stop_ids)
        self._with_kwargs = lru_cache(_MAX_KEPT)(self._make_with_kwargs)
        _check_template(tokenizer)
        self._has_reasoning = "</think>" in str(tokenizer.chat_template)
        self._opens_reasoning = self._has_reasoning and self._generation_prompt_opens_reasoning()
        self._roles = probe_roles(self._render_raw)
        self._writes_channels = channel_template.writes_channels(self._probed_turn(), _MARK)
        self._turn_end = self._find_turn_end()
        self._stop_text, turn_end_id = self._first_special(self._turn_end)
        self.stop_ids = frozenset(
            id_
            for id_ in (*self._extra_stop_ids, tokenizer.eos_token_id, turn_end_id)
            if id_ is not None
        )
        if self._writes_channels:
            self.stop_ids = channel_template.stop_ids(self.stop_ids, tokenizer.get_added_vocab())

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

    def _make_with_kwargs(self, kwargs: str) -> "ChatTemplate":
        given = json.loads(kwargs)
        check_kwargs(given, self._tokenizer)
        return ChatTemplate(
            self._tokenizer, extra_stop_ids=self._extra_stop_ids, kwargs={**self.kwargs, **given}
        )

    @cached_property
    def _native_format(self) -> ToolFormat | None:
        """The template's own tool format; asked for when tools are first offered.

        Raises ConfigError for a template whose format is not known.
        """
        return detect_format(self._render_raw)

    @property
    def tool_format(self) -> ToolFormat:
        """How the model writes tool calls."""
        return self._native_format or FOLDED_FORMAT

    def tool_opening(self, name: str | None) -> str:
        """The text that begins a call of the tool `name`, or of any tool for None."""
        opening = self.tool_format.opening(name)
        return f"\n</think>\n\n{opening}" if self._opens_reasoning else opening

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[int, ...]:
        """Token ids of a whole conversation, ready for the model's next reply."""
        return self.encode(self.prompt_text(messages, tools))

    def prompt_text(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        """The conversation as the template writes it, ready for the model's next reply."""
        return self._render(messages, tools, add_generation_prompt=True)

    def answered_text(
        self, before: Sequence[Message], reply: Message, tools: Sequence[Tool]
    ) -> str:
        """The conversation up to the end of a reply."""
        return self._render([*before, reply], tools, add_generation_prompt=False)

    def extend(
        self, prompt: Written, answered: str, full: str, *, ended_by_stop: bool
    ) -> Extension:
        """The text that stands in `full`, a prompt, behind the reply that ends `answered`.

        `prompt` is the text that the reply answered. The reply's own tokens are left alone, and
        `ended_by_stop` tells whether they hold the end of turn. A template that writes the prompt
        or the reply otherwise once more follows is not append-only, and gives no text.
        """
        is_kept = prompt.begins(answered) and full.startswith(answered)
        turn_end = self._turn_end_of(answered)
        if not is_kept or turn_end is None:
            return Extension(text=None)
        behind_stop = turn_end[len(self._stop_text) :] if ended_by_stop else turn_end
        return Extension(text=behind_stop + full[len(answered) :])

    def rewrite_reason(
        self,
        before: Sequence[Message],
        reply: Message,
        tools: Sequence[Tool],
        full: str,
    ) -> str:
        """Why `extend` gave no text: where the template starts to write something else."""
        prompt = self.prompt_text(before, tools)
        answered = self.answered_text(before, reply, tools)
        for part, whole in ((prompt, answered), (answered, full)):
            if not whole.startswith(part):
                return _rewrite_reason(part, whole)
        return "the template ends this reply in another way"

    def ends_turn(self, completion: Completion, rest: str) -> bool:
        """Whether a reply is over before `rest` goes on behind it."""
        return completion.finish_reason == "stop" or rest.startswith(self._turn_end)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def encode_within(self, text: str, max_tokens: int) -> tuple[int, ...]:
        """The ids of a text, or TooLong as soon as its beginning has more.

        The beginning is encoded and not estimated, since no number of characters bounds a token:
        some tokenizers write a run of spaces as one. A text that is not very long is encoded in any
        case, and may have more.
        """
        size = max(_READ_WHOLE, _TYPICAL_CHARACTERS * max_tokens)
        while size < len(text):
            num_tokens = len(self.encode(text[:size]))
            if num_tokens > max_tokens + _SEAM_TOKENS:
                raise TooLong(num_tokens)
            size *= 4
        return self.encode(text)

    def decode_reply(self, ids: Sequence[int]) -> str:
        """Text of sampled ids without the end-of-turn token; other control tokens stay visible."""
        return self.decode(ids[:-1] if ids and ids[-1] in self.stop_ids else ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; control tokens stay visible."""
        return self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def token_bytes(self, id_: int) -> bytes | None:
        """What a token adds to a text, in UTF-8; None for parts of characters of unknown bytes."""
        text = self.decode([id_])
        if "\ufffd" not in text:
            return text.encode()
        return spelled_bytes(self._tokenizer.convert_ids_to_tokens(id_))

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
        uses_tools = tools or any(_is_about_tools(message) for message in messages)
        if uses_tools and self._native_format is None:
            listed, offered = fold_tools(listed, list(tools)), None
        if self._writes_channels:
            listed = channel_template.fit_history(listed, str(self._tokenizer.chat_template))
        listed = fit_roles(listed, self._roles)
        return self._apply(listed, offered, add_generation_prompt=add_generation_prompt)

    def _render_raw(self, messages: list[Message], tools: list[Tool] | None) -> str:
        return self._apply(messages, tools, add_generation_prompt=False)

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
            )
        except (TemplateError, TypeError, ValueError, KeyError, RecursionError) as error:
            roles = [message["role"] for message in messages]
            given = f" and chat_template_kwargs {dict(self.kwargs)}" if self.kwargs else ""
            raise RequestError(
                f"the model's chat template refused the conversation with roles {roles}{given}: "
                f"{error}",
                param="messages",
            ) from error

    def _generation_prompt_opens_reasoning(self) -> bool:
        probe: list[Message] = [{"role": "user", "content": "probe"}]
        return self._apply(probe, None, add_generation_prompt=True).rstrip().endswith("<think>")

    def _probed_turn(self) -> str:
        probe: list[Message] = [
            {"role": "user", "content": "probe"},
            {"role": "assistant", "content": _MARK},
        ]
        return self._apply(probe, None, add_generation_prompt=False)

    def _find_turn_end(self) -> str:
        text = self._probed_turn()
        if _MARK not in text:
            raise ConfigError("model.path: the chat template drops the assistant's text")
        return text.rpartition(_MARK)[2]

    def _turn_end_of(self, answered: str) -> str | None:
        """How the template ended the last reply; None where that is no end of turn."""
        if self._writes_channels:
            return channel_template.turn_end(answered)
        return self._turn_end if answered.endswith(self._turn_end) else None

    def _first_special(self, text: str) -> tuple[str, int | None]:
        """The special token that `text` begins with and its id; empty text when there is none."""
        ids = self.encode(text)
        if (ids and ids[0] in self._tokenizer.all_special_ids) or (ids and self._is_added(ids[0])):
            return self._tokenizer.decode([ids[0]], skip_special_tokens=False), ids[0]
        return "", None

    def _is_added(self, id_: int) -> bool:
        return id_ in self._tokenizer.get_added_vocab().values()


def _is_about_tools(message: Message) -> bool:
    return message["role"] == "tool" or "tool_calls" in message


def _check_template(tokenizer: Any) -> None:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            f"model.path: the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
            "use an instruct model, or put a chat_template.jinja beside its tokenizer"
        )


def _rewrite_reason(earlier: str, later: str) -> str:
    """Say where a template that rewrites history starts to differ."""
    place = len(commonprefix((earlier, later)))  # noqa: RUF071  # characters are meant
    was, now = earlier[place : place + 24], later[place : place + 24]
    return f"the template rewrote its text at character {place}: {was!r} became {now!r}"
