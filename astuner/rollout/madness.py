"""Checks for gibberish: replies that no reward should excuse, found by name.

A check gets a reply taken apart and the tools that were offered, and gives a reason or None.
Owns no consequences. The checks prefer to miss: legitimate text must pass, whatever its language.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from astuner.errors import ConfigError
from astuner.inference.tools.check import check_call
from astuner.inference.tools.protocol import ParsedReply
from astuner.inference.tools.stretches import answer_start
from astuner.types import Tool

Check = Callable[[ParsedReply, Sequence[Tool]], str | None]

MAX_CHARACTER_RUN = 200
"""Of one character. Separator lines have up to 120, a googol written out 100 zeros."""
MAX_BLANK_RUN = 1000
"""Of one whitespace character. Wide tables are padded with some hundred spaces."""
LOOP_REPEATS = 20
LOOP_BYTES = 600
"""A loop repeats its unit so often over so many UTF-8 bytes: 'ha ha ha' and empty table rows stay
below. Bytes and not characters, since they follow the number of tokens in every script."""
TABLE_LOOP_BYTES = 3000
"""Instead of LOOP_BYTES where the unit has a line break but no letters: a table of numbers."""
LONG_LOOP_REPEATS = 5
LONG_LOOP_BYTES = 1500
"""A paragraph needs fewer repeats than a word: nobody writes the same one five times running."""
MAX_UNIT = 1000
"""Characters of the longest unit of a loop that is looked for."""

SOUP_WORDS = 200
SOUP_DISTINCT = 5
"""So many words in a row, of so few different ones, are word soup. Twice as long as a plan of
moves or a list of truth values that an agent writes; numbers and signs between words end a row."""

SENTENCE_LETTERS = 20
SENTENCE_REPEATS = 10
SENTENCE_SHARE = 0.6
SENTENCE_BYTES = 1000
"""Sentences of so many letters, each said so often, that fill this share and so many bytes of a
text are a loop with variations. Code and tables repeat lines with fewer letters."""

GARBAGE_CHARACTERS = 10
GARBAGE_SHARE = 0.05
"""Unreadable characters, and their share of the text. Below: a character cut at the end of a
reply, and the few private-use icons of terminal fonts."""

_ANCHOR = 24
"""Characters that must recur to suspect a loop; chance recurrences only cost time."""
_STRIDE = 60
"""Distance of the places where a loop is looked for. LOOP_BYTES of four-byte characters are 150,
so that a whole anchor and its recurrence lie behind at least one of them."""
_MAX_RECURRENCES = 8
"""Of one anchor that are tried as period: a long unit may hold its beginning more than once."""
_MAX_NESTING = 3
"""Loops of loops that are looked for: cells in a row, rows in a table, tables in a reply."""
_SLICE = 256
"""Characters that are compared at once."""

CONTROL_TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|start|>",
    "<|return|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<\uff5cUser\uff5c>",
    "<\uff5cAssistant\uff5c>",
    "[INST]",
    "[/INST]",
)
"""Of the chat templates of Qwen, Llama, Phi, gpt-oss, Gemma, DeepSeek and Mistral. `<s>` is also
HTML."""

TOOL_TAGS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
"""Begin or end a call in the formats of `astuner.inference.tools`."""

# Escape stays out: it begins the colours of a terminal. So do format characters such as joiners.
_UNREADABLE = re.compile(
    "[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufffd-\uffff"
    "\U000f0000-\U0010ffff]"
)
_SENTENCE_END = re.compile(r"[\n.!?\u3002\uff01\uff1f]+")
_TWO_LETTERS = re.compile(r"[^\W\d_]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loop:
    """A stretch of text that repeats its first `period` characters."""

    start: int
    end: int
    period: int


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names. Raises ConfigError for one that is no check."""
    for name in names:
        if name not in CHECKS:
            near = get_close_matches(name, CHECKS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"rollout.compute_madness_checklist: there is no check {name!r}; {hint}"
                f"Known checks: {', '.join(CHECKS)}."
            )
    return tuple(names)


def find_madness(names: Sequence[str], reply: ParsedReply, tools: Sequence[Tool]) -> str | None:
    """'check: reason' of the first of the named checks that the reply fails, in the given order.

    The text of the reply must not hold the end token. Takes time linear in its length.
    Raises ConfigError for an unknown name, RequestError for a tool with an invalid schema.
    """
    for name in check_names(names):
        reason = CHECKS[name](reply, tools)
        if reason is not None:
            return f"{name}: {reason}"
    return None


def nonsense(reply: ParsedReply, tools: Sequence[Tool]) -> str | None:
    """Control tokens, unreadable characters or endless repetition, also in the arguments."""
    for text in (reply.text, *_argument_texts(reply)):
        for find in (_control_token, _garbage, _loop, _word_soup, _repeated_sentences):
            reason = find(text)
            if reason is not None:
                return reason
    return None


def wrong_toolcall(reply: ParsedReply, tools: Sequence[Tool]) -> str | None:
    """A call that cannot be made: malformed, not offered, or with wrong arguments."""
    if reply.malformed:
        return f"malformed tool call: {reply.malformed[0]}"
    for call in reply.tool_calls:
        reason = check_call(call, tools)
        if reason is not None:
            return reason
    answer = reply.text[answer_start(reply.text) :]
    tag = next((tag for tag in TOOL_TAGS if tag in answer), None)
    return None if tag is None else f"a literal {tag} stands in the text"


CHECKS: dict[str, Check] = {"nonsense": nonsense, "wrong_toolcall": wrong_toolcall}


def _argument_texts(reply: ParsedReply) -> Iterator[str]:
    pending: list[Any] = [call.arguments for call in reply.tool_calls]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            pending.extend(reversed(value.values()))
        elif isinstance(value, list):
            pending.extend(reversed(value))


def _control_token(text: str) -> str | None:
    token = next((token for token in CONTROL_TOKENS if token in text), None)
    return None if token is None else f"control token {token} in the text"


def _garbage(text: str) -> str | None:
    num_unreadable = sum(1 for _ in _UNREADABLE.finditer(text))
    if num_unreadable < GARBAGE_CHARACTERS or num_unreadable < GARBAGE_SHARE * len(text):
        return None
    return f"{num_unreadable} of {len(text)} characters are unreadable"


def _loop(text: str) -> str | None:
    for loop in _loops(text):
        unit = text[loop.start : loop.start + loop.period]
        repeats = (loop.end - loop.start) / loop.period
        if _is_endless(unit, repeats):
            return f"{_shown(unit)} is repeated {int(repeats)} times"
    return None


def _is_endless(unit: str, repeats: float) -> bool:
    if len(unit) == 1:
        return repeats > (MAX_BLANK_RUN if unit.isspace() else MAX_CHARACTER_RUN)
    num_bytes = repeats * len(unit.encode("utf-8", errors="surrogatepass"))
    if "\n" in unit and not any(character.isalpha() for character in unit):
        return repeats >= LOOP_REPEATS and num_bytes >= TABLE_LOOP_BYTES
    if repeats >= LONG_LOOP_REPEATS and num_bytes >= LONG_LOOP_BYTES:
        return True
    return repeats >= LOOP_REPEATS and num_bytes >= LOOP_BYTES


def _loops(text: str) -> Iterator[_Loop]:
    """Stretches that repeat a unit; among them all that `_is_endless` could accept.

    A stretch is given once for each place at which it is looked for.
    """
    for place in range(0, len(text), _STRIDE):
        at = place
        for _ in range(_MAX_NESTING):
            loop = _loop_at(text, at)
            if loop is None:
                break
            yield loop
            # This anchor holds the character that breaks the loop, so only a loop around the
            # loop repeats it.
            at = loop.end - _ANCHOR + 1


def _loop_at(text: str, at: int) -> _Loop | None:
    """The loop that covers the anchor at `at`, with the shortest period."""
    anchor = text[at : at + _ANCHOR]
    again = at
    for _ in range(_MAX_RECURRENCES):
        again = text.find(anchor, again + 1, at + MAX_UNIT + len(anchor))
        if again < 0:
            return None
        start = at - _equal_before(text, at, again)
        end = again + _equal_after(text, at, again)
        if end - start >= LONG_LOOP_REPEATS * (again - at):
            return _Loop(start=start, end=end, period=again - at)
    return None


def _equal_after(text: str, first: int, second: int) -> int:
    """Number of equal characters from two places on; `first` is the earlier one."""
    count = 0
    while _slice(text, first + count) == _slice(text, second + count):
        count += _SLICE
    while second + count < len(text) and text[first + count] == text[second + count]:
        count += 1
    return count


def _equal_before(text: str, first: int, second: int) -> int:
    """Number of equal characters that lie directly before two places."""
    count = 0
    while count + _SLICE <= first and (
        _slice(text, first - count - _SLICE) == _slice(text, second - count - _SLICE)
    ):
        count += _SLICE
    while count < first and text[first - count - 1] == text[second - count - 1]:
        count += 1
    return count


def _slice(text: str, start: int) -> str:
    return text[start : start + _SLICE]


def _word_soup(text: str) -> str | None:
    window: deque[str] = deque()
    counts: Counter[str] = Counter()
    for word in text.lower().split():
        if _TWO_LETTERS.search(word) is None:
            window.clear()
            counts.clear()
            continue
        window.append(word)
        counts[word] += 1
        if len(window) > SOUP_WORDS:
            oldest = window.popleft()
            counts[oldest] -= 1
            if not counts[oldest]:
                del counts[oldest]
        if len(window) == SOUP_WORDS and len(counts) <= SOUP_DISTINCT:
            return f"{SOUP_WORDS} words in a row are only {_shown(' '.join(counts))}"
    return None


def _repeated_sentences(text: str) -> str | None:
    counts = Counter(sentence.strip() for sentence in _SENTENCE_END.split(text))
    repeated = {
        sentence: count
        for sentence, count in counts.items()
        if count >= SENTENCE_REPEATS
        and sum(character.isalpha() for character in sentence) >= SENTENCE_LETTERS
    }
    num_bytes = sum(_num_bytes(sentence) * count for sentence, count in repeated.items())
    if num_bytes < SENTENCE_BYTES or num_bytes < SENTENCE_SHARE * _num_bytes(text):
        return None
    worst = max(repeated, key=lambda sentence: repeated[sentence])
    return f"{_shown(worst)} is said {repeated[worst]} times"


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", errors="surrogatepass"))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")
