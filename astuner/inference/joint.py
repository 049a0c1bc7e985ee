"""Where a prompt goes on behind an earlier call: the text that stands behind the sampled reply.

Compares texts only. What was sampled is never written anew: what is returned is put behind it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from os.path import commonprefix
from typing import NamedTuple, Self

from astuner.inference.template import ChatTemplate
from astuner.trajectory.recorder import Call
from astuner.types import Message, Tool

_MAX_PLACES = 8
"""At which the end of a reply is looked for; a reply may quote the text of an end of turn."""


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
class Spoken:
    """A call as a later prompt meets it."""

    call: Call
    prompt: Written
    """What the template wrote for its messages."""
    text: str
    """All that stands behind, as its ids say it: a forced beginning, the reply, its end token."""


def text_behind(
    template: ChatTemplate,
    said: Spoken,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    full: str,
) -> str | None:
    """What of `full`, the text of `messages`, stands behind the reply; None where it cannot.

    Where `full` begins with all that was said, that is what follows. Otherwise the template must
    have left the prompt as it was, and written the reply so that it reads the same, or as it is
    written where it is the last message: trimmed, or with a call in other spacing. Then of its end
    of turn that part follows which was not sampled.
    """
    if not said.prompt.begins(full):
        return None
    added = full[said.prompt.length :]
    if added.startswith(said.text):
        return added[len(said.text) :]
    for place in islice(_ends(template, added), _MAX_PLACES):
        if _reads_same(template, added[:place], said.call):
            return _not_sampled(template, said, added[place:])
    written = _written_last(template, said, messages, tools)
    if written is None or not added.startswith(written + template.turn_end.text):
        return None
    return _not_sampled(template, said, added[len(written) :])


def rewrite_reason(
    template: ChatTemplate,
    said: Spoken,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    full: str,
) -> str:
    """Why `text_behind` gave none: where the template starts to write something else."""
    prompt = template.prompt_text(said.call.messages, tools)
    if not full.startswith(prompt):
        return _rewrite_reason(prompt, full)
    written = _written_last(template, said, messages, tools)
    if written is None or not full.startswith(prompt + written):
        return _rewrite_reason(prompt + (said.text if written is None else written), full)
    return "the template ends this reply in another way"


def _ends(template: ChatTemplate, text: str) -> Iterator[int]:
    key = template.turn_end.key
    place = text.find(key) if key else -1
    while place >= 0:
        yield place
        place = text.find(key, place + 1)


def _reads_same(template: ChatTemplate, written: str, call: Call) -> bool:
    """Whether what the template wrote is taken apart into the reply that the agent got."""
    reply = call.reply
    content = template.turn_end.content(written, is_ended=False)
    reasoning, text = template.split_reasoning(content)
    calls = [sent["function"] for sent in reply.get("tool_calls", ())]
    if calls:
        parsed = template.parse(text, call.tools)
        text = parsed.text
        found = [{"name": one.name, "arguments": one.arguments} for one in parsed.tool_calls]
        if found != calls:
            return False
    return (
        text.strip() == reply["content"].strip()
        and reasoning.strip() == reply.get("reasoning_content", "").strip()
    )


def _written_last(
    template: ChatTemplate, said: Spoken, messages: Sequence[Message], tools: Sequence[Tool]
) -> str | None:
    """The reply as the template writes it where the conversation ends with it."""
    num_before = len(said.call.messages)
    answered = template.answered_text(messages[:num_before], messages[num_before], tools)
    ended = template.turn_end.ended
    if not (said.prompt.begins(answered) and answered.endswith(ended)):
        return None
    return answered[said.prompt.length : len(answered) - len(ended)]


def _not_sampled(template: ChatTemplate, said: Spoken, end: str) -> str:
    """What of the text behind a reply does not stand in its ids."""
    completion, turn_end = said.call.completion, template.turn_end
    if completion.finish_reason != "stop":
        return end
    sampled_end = ""
    if completion.ids and completion.ids[-1] in template.stop_ids:
        sampled_end = template.encoding.decode(completion.ids[-1:])
    for mark in (sampled_end, turn_end.mark):
        if mark and end.startswith(turn_end.lead + mark):
            rest = end[len(turn_end.lead + mark) :]
            # The token that completed an end of ordinary tokens may reach beyond it.
            beyond = "" if sampled_end else said.text.rpartition(mark)[2]
            return rest.removeprefix(beyond)
    return end


def _rewrite_reason(earlier: str, later: str) -> str:
    """Say where a template that rewrites history starts to differ."""
    place = len(commonprefix((earlier, later)))  # noqa: RUF071  # characters are meant
    was, now = earlier[place : place + 24], later[place : place + 24]
    return f"the template rewrote its text at character {place}: {was!r} became {now!r}"
