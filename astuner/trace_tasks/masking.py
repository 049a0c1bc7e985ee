"""Takes secrets and personal data out of a trace, whole, before a step or a file sees it.

Beside what `PrivateMask` finds in texts, a trace tells who its user is: that name is taken out
wherever it stands in the trace, and in its place, as the user, comes a digest with a key that only
the set knows. So users can still be told apart, and nobody can be looked up.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from astuner.traces.private_text import PrivateMask
from astuner.traces.trace import Step, Trace, TracedToolCall, TraceFeedback

_USER_MASK = "[user]"
_NO_NAMES = frozenset(
    {"admin", "agent", "anonymous", "assistant", "customer", "default", "guest", "human", "none"}
    | {"null", "root", "system", "test", "tester", "unknown", "user", "users"}
)
"""What stands for a user without telling who it is."""
_KINDS_OF_JUDGES = frozenset({"human", "model", "code", "llm"})
_LEAST_OF_NAME = 3
"""Letters of a part of a name that is looked for on its own."""
_NAME = re.compile(r"[^\W\d_]+(?:[ .'_-]+[^\W\d_]+)+")
"""Several words of letters, as people have."""

TextMask = Callable[[Any], Any]


class TraceMask:
    """Masks traces. Used by one thread."""

    def __init__(self, private: PrivateMask, *, key: bytes) -> None:
        """`key` makes the digests of users."""
        self._private = private
        self._key = key
        self.kinds: Counter[str] = Counter()
        """In how many traces what was masked."""

    def masked(self, trace: Trace) -> Trace:
        """A copy in which no text is as it was where it told a secret. Ids that tell something
        become digests, so that traces stay apart. Token ids are left out: they spell the text."""
        kinds: set[str] = set()

        def mask(value: Any) -> Any:
            found = self._private.mask(value)
            kinds.update(found.kinds)
            # behind it, since an address without the name in it has no form any more
            return _without_names(found.value, names, kinds)

        names = _names_of(trace)
        found = replace(
            trace,
            trace_id=self._id(trace.trace_id, mask),
            session=None if trace.session is None else self._id(trace.session, mask),
            user=None if trace.user is None else f"user_{self._digest(trace.user)}",
            agent=mask(trace.agent),
            tags=tuple(mask(list(trace.tags))),
            metadata=mask(dict(trace.metadata)),
            steps=tuple(_of_step(step, mask) for step in trace.steps),
            feedback=tuple(_of_feedback(one, mask) for one in trace.feedback),
            error=mask(trace.error),
            origin=replace(
                trace.origin,
                address=mask(trace.origin.address),
                ids=tuple(self._id(one, mask) for one in trace.origin.ids),
            ),
        )
        self.kinds.update(kinds)
        return found

    def _id(self, value: str, mask: TextMask) -> str:
        return value if mask(value) == value else f"id_{self._digest(value)}"

    def _digest(self, text: str) -> str:
        data = text.encode(errors="replace")
        return hashlib.blake2b(data, key=self._key, digest_size=8).hexdigest()


def _of_step(step: Step, mask: TextMask) -> Step:
    is_person = step.role == "user"
    return replace(
        step,
        text=mask(step.text),
        reasoning=mask(step.reasoning),
        name=None if is_person else mask(step.name),
        tool_calls=tuple(_of_call(call, mask) for call in step.tool_calls),
        agent=mask(step.agent),
        model=mask(step.model),
        tools=tuple(mask([dict(tool) for tool in step.tools])),
        error=mask(step.error),
        tokens=None,
    )


def _of_call(call: TracedToolCall, mask: TextMask) -> TracedToolCall:
    return replace(call, name=mask(call.name), arguments=mask(call.arguments))


def _of_feedback(feedback: TraceFeedback, mask: TextMask) -> TraceFeedback:
    is_kind = feedback.by is None or feedback.by in _KINDS_OF_JUDGES
    return replace(
        feedback,
        name=mask(feedback.name),
        label=mask(feedback.label),
        comment=mask(feedback.comment),
        correction=mask(feedback.correction),
        by=feedback.by if is_kind else "human",
    )


def _names_of(trace: Trace) -> re.Pattern[str] | None:
    """Of the user and of whoever speaks for one or gave feedback, and their parts where they are
    names of people; None: there are none."""
    told = {trace.user, *(step.name for step in trace.steps if step.role == "user")}
    told |= {one.by for one in trace.feedback if one.by not in _KINDS_OF_JUDGES}
    names = {part for name in told if name for part in _parts(name.strip())}
    if not names:
        return None
    listed = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{listed})(?!\w)", re.IGNORECASE)


def _parts(name: str) -> Iterator[str]:
    words = re.split(r"[ .'_-]+", name) if _NAME.fullmatch(name) else []
    for part in (name, *words):
        if len(part) >= _LEAST_OF_NAME and part.lower() not in _NO_NAMES and not part.isdigit():
            yield part


def _without_names(value: Any, names: re.Pattern[str] | None, kinds: set[str]) -> Any:
    if names is None or value is None:
        return value
    if isinstance(value, str):
        found = names.sub(_USER_MASK, value)
        if found != value:
            kinds.add("user")
        return found
    if isinstance(value, list | tuple):
        return [_without_names(item, names, kinds) for item in value]
    if isinstance(value, dict):
        return {
            _without_names(key, names, kinds): _without_names(item, names, kinds)
            for key, item in value.items()
        }
    return value
