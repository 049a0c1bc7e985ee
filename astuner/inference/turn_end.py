"""What a chat template writes around a reply, found by rendering a probe conversation.

Owns where a reply's own text begins and ends. Knows no calls and no sampled ids.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from os.path import commonprefix

from astuner.errors import ConfigError, RequestError
from astuner.inference.encoding import Encoding
from astuner.inference.excerpt import excerpt
from astuner.types import Message

Render = Callable[[list[Message], bool], str]
"""Messages, and whether a reply is to follow, to the text of the conversation.

Raises RequestError where the template refuses.
"""

_QUESTION = "astuner-probe-question"
_REPLY = "astuner-probe-reply"
_NEXT = "astuner-probe-next"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnd:
    """What the template writes before and behind a reply that another message follows.

    Llama 2 writes a reply as " five </s>" and then "<s>[INST] ":
    TurnEnd(before=" ", lead=" ", mark="</s>", tail="", stop_ids={2}, stop_text=None,
    ended=" </s>", between=" </s><s>[INST] ")
    """

    before: str
    """Stands between the generation prompt and the reply; the model is to sample it."""
    lead: str
    """Stands between the reply and `mark`."""
    mark: str
    """Ends the reply; empty where the template writes only whitespace or nothing there."""
    tail: str
    """What of the end of turn stands behind `mark`."""
    stop_ids: frozenset[int]
    """Special tokens of the end of turn."""
    stop_text: str | None
    """`mark` where it consists of ordinary tokens."""
    ended: str
    """What stands behind the reply where the conversation ends with it."""
    between: str
    """What stands between the reply and the text of a user's next message."""

    @property
    def text(self) -> str:
        return self.lead + self.mark + self.tail

    @property
    def key(self) -> str:
        """What to look for where the reply may end."""
        return self.lead + self.mark if self.mark else self.between

    def content(self, text: str, *, is_ended: bool) -> str:
        """A reply without what the template writes around it anyway.

        `is_ended`: the model ended it, `mark` itself being cut off already.
        """
        text = text.removeprefix(self.before)
        return text.removesuffix(self.lead) if is_ended else text


def find_turn_end(render: Render, encoding: Encoding, *, bos: str | None) -> TurnEnd:
    """Raises ConfigError for a template that refuses a question and a reply, or drops it."""
    prompt, last, going_on = _rendered_probes(render)
    head, _, behind = going_on.partition(_REPLY)
    between, ended = behind.partition(_NEXT)[0], last.rpartition(_REPLY)[2]
    opening = prompt.partition(_QUESTION)[0]
    specials = {text: id_ for text, id_ in encoding.specials.items() if text.strip()}
    specials.pop(bos or "", None)
    end = _shared(ended, between, list(specials))
    if _asks_always(render, prompt):
        end = _without_next_turn(end, opening, between, list(specials))
    stops = _find_specials(end, list(specials))
    if not end.strip():
        stops = _find_specials(ended, list(specials))
        end = _going_on_end(between, opening, list(specials), bool(stops))
    marks = _find_specials(end, list(specials))
    mark = marks[0][1] if marks else end.strip()
    place = end.find(mark) if mark else 0
    return TurnEnd(
        before=head[len(prompt) :] if head.startswith(prompt) else "",
        lead=end[:place],
        mark=mark,
        tail=end[place + len(mark) :],
        stop_ids=frozenset(specials[text] for _, text in stops or marks),
        stop_text=mark if mark and not marks else None,
        ended=ended,
        between=between,
    )


def _rendered_probes(render: Render) -> tuple[str, str, str]:
    """A question that asks for a reply, with the reply, and going on behind it.

    The third is the second where the template has no reply left once more follows.
    """
    question: Message = {"role": "user", "content": _QUESTION}
    reply: Message = {"role": "assistant", "content": _REPLY}
    following: Message = {"role": "user", "content": _NEXT}
    try:
        prompt = render([question], True)
        last = render([question, reply], False)
    except RequestError as error:
        raise ConfigError(
            f"model.path: the chat template cannot write a question and a reply: {error}. Mend the "
            "template (chat_template.jinja beside the tokenizer), or the special tokens that it "
            "names in tokenizer_config.json"
        ) from error
    if _REPLY not in last:
        raise ConfigError(
            "model.path: the chat template drops the assistant's text; it wrote a question and a "
            f"reply as {excerpt(last)!r}. Use another template"
        )
    try:
        going_on = render([question, reply, following], True)
    except RequestError:
        going_on = last
    return prompt, last, going_on if _REPLY in going_on else last


def _asks_always(render: Render, prompt: str) -> bool:
    """Whether a template writes what asks for a reply though none is to follow."""
    return render([{"role": "user", "content": _QUESTION}], False) == prompt


def _without_next_turn(end: str, opening: str, between: str, specials: list[str]) -> str:
    """The end of a turn, without the beginning of a next one that always stands behind it."""
    marks = _find_specials(end, specials)
    if not marks:
        return commonprefix((end, between.removesuffix(_shared_end(opening, between))))  # noqa: RUF071  # characters are meant
    place, mark = marks[0]
    return end[: place + len(mark)]


def _going_on_end(between: str, opening: str, specials: list[str], ends_with_special: bool) -> str:
    """The end of a turn that is written otherwise, or not at all, where the conversation ends.

    `opening`: what stands before the text of a first user message.
    """
    marks = _find_specials(between, specials)
    if ends_with_special and marks:
        place, mark = marks[0]
        return between[: place + len(mark)]
    return between.removesuffix(_shared_end(opening, between))


def _find_specials(text: str, specials: list[str]) -> list[tuple[int, str]]:
    """Where special tokens stand in a text, in order; of those that overlap the first, longest."""
    places = sorted(
        (place, -len(special), special) for special in specials for place in _places(text, special)
    )
    found: list[tuple[int, str]] = []
    for place, _, special in places:
        if not found or place >= found[-1][0] + len(found[-1][1]):
            found.append((place, special))
    return found


def _places(text: str, part: str) -> list[int]:
    places, place = [], text.find(part)
    while place >= 0:
        places.append(place)
        place = text.find(part, place + 1)
    return places


def _shared(one: str, other: str, specials: list[str]) -> str:
    """What both texts begin with, without a part of a special token."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    size = sum(1 for _ in pairs)
    for text in (one, other):
        for place, special in _find_specials(text, specials):
            if place < size < place + len(special):
                size = place
    return one[:size]


def _shared_end(one: str, other: str) -> str:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one[::-1], other[::-1], strict=False))
    return "".join(character for character, _ in pairs)[::-1]
