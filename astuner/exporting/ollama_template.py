"""The chat template of a model in Ollama's own language, where it can be said there exactly.

Ollama runs no Jinja. Without a TEMPLATE it takes whichever of its own is within 99 letters of the
model's (template/template.go, `Named`), which is another one as soon as a letter matters. So the
template is taken apart into what stands around a message of each role, put together again as Ollama
would, and used only if that gives the prompts of the template itself. Pure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from astuner.types import Message

Render = Callable[[Sequence[Message], bool], str]
"""The prompt of messages, with the opening of a reply or without it."""

_SYSTEM, _USER, _AGAIN, _REPLY = "qSYSTEMq", "qUSERq", "qAGAINq", "qREPLYq"
"""What messages say, to be found again in a prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What a template writes about one message."""

    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaTemplate:
    """A template that only sets each message between two texts."""

    start: str
    """In front of all messages."""
    around: Mapping[str, Around]
    """By role."""
    opening: str
    """Of the reply."""
    system: str | None
    """Said where the caller says no system message."""

    def prompt(self, messages: Sequence[Message]) -> str:
        """As Ollama makes it, which joins messages of one role that follow each other."""
        if self.system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        joined: list[tuple[str, str]] = []
        for message in messages:
            role, content = message["role"], str(message.get("content"))
            if joined and joined[-1][0] == role:
                joined[-1] = (role, f"{joined[-1][1]}\n\n{content}")
            else:
                joined.append((role, content))
        parts = (
            f"{self.around[role].before}{content}{self.around[role].after}"
            for role, content in joined
        )
        return f"{self.start}{''.join(parts)}{self.opening}"

    def text(self) -> str:
        """In the language of Go's text/template, over `.Messages`."""
        choices = "{{ else }}".join(
            f'{{{{ if eq .Role "{role}" }}}}{one.before}{{{{ .Content }}}}{one.after}'
            for role, one in self.around.items()
        )
        ends = "{{ end }}" * len(self.around)
        return f"{self.start}{{{{ range .Messages }}}}{choices}{ends}{{{{ end }}}}{self.opening}"


def ollama_template(
    render: Render, conversations: Sequence[Sequence[Message]], *, begin: str, adds_begin: bool
) -> OllamaTemplate | None:
    """The template that makes the same prompts of all conversations; None where there is none.

    `begin` is the token that begins a text, as text; with `adds_begin`, Ollama puts it in front of
    every prompt by itself.
    """
    # A token that begins each prompt may as well be a part of what stands before a message.
    for written in (begin,) if adds_begin else ("", begin):
        try:
            found = _taken_apart(render, written, adds_begin)
            is_same = _can_be_written(found) and all(
                found.prompt(messages)
                == _without(render(messages, True), begin if adds_begin else "")
                for messages in conversations
            )
        except Exception:  # noqa: BLE001  # templates are code, and refuse by whatever they raise
            continue
        if is_same:
            return found
    return None


def _taken_apart(render: Render, begin: str, adds_begin: bool) -> OllamaTemplate:
    """Raises ValueError where messages do not stand one behind the other."""
    user: Message = {"role": "user", "content": _USER}
    again: Message = {"role": "user", "content": _AGAIN}
    reply: Message = {"role": "assistant", "content": _REPLY}
    said: Message = {"role": "system", "content": _SYSTEM}

    first, after_user = _split(render([user], False), _USER)
    opening = _without(render([user], True), render([user], False))
    _, between, after_reply = _split(render([user, reply], False), _USER, _REPLY)
    _, _, back, _ = _split(render([user, reply, again], False), _USER, _REPLY, _AGAIN)
    start, change, _ = _split(render([said, user], False), _SYSTEM, _USER)
    around_user = Around(before=_without(back, after_reply), after=after_user)
    head = first.removesuffix(around_user.before)
    written = begin if begin and head.startswith(begin) and start.startswith(begin) else ""
    around_system = Around(
        before=_without(start, written), after=change.removesuffix(around_user.before)
    )
    return OllamaTemplate(
        start="" if adds_begin else written,
        around={
            "system": around_system,
            "user": around_user,
            "assistant": Around(before=_without(between, after_user), after=after_reply),
        },
        opening=opening,
        system=_said_by_itself(_without(head, written), around_system),
    )


def _said_by_itself(head: str, around: Around) -> str | None:
    """The system message that a template says where there is none."""
    is_message = head.startswith(around.before) and head.endswith(around.after)
    return head[len(around.before) : len(head) - len(around.after)] if head and is_message else None


def _split(text: str, *marks: str) -> list[str]:
    """The text around the marks, each of which stands in it once, in this order.

    Raises ValueError where one does not.
    """
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise ValueError(f"{mark} does not stand in the prompt once")
        parts.append(before)
    return [*parts, text]


def _without(text: str, start: str) -> str:
    """Raises ValueError for a text that does not start so."""
    if not text.startswith(start):
        raise ValueError(f"{text!r} does not start with {start!r}")
    return text[len(start) :]


def _can_be_written(template: OllamaTemplate) -> bool:
    """Whether nothing in it means something to Go's templates, or ends a text of a Modelfile."""
    literal = [template.start, template.opening, template.system or ""]
    literal += [text for one in template.around.values() for text in (one.before, one.after)]
    return not any("{{" in text or '"""' in text or text.endswith('"') for text in literal)
