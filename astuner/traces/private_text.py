"""Takes personal data and secrets out of what is written about calls.

What is looked for, and by whom, stands in task_generation/gates/private_spans.py and in
config/secret.py. In place of each there is a word for its kind, such as `[email]`, always the same.
Names of people are not looked for: telling whom they expose takes a model.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from astuner.config.secret import is_secret, mask_text
from astuner.errors import ConfigError
from astuner.task_generation.gates.private_patterns import SECRET, PrivateSpan
from astuner.task_generation.gates.private_spans import PrivateSpanFinder

_WORDS = {
    SECRET: "secret",
    "e-mail address": "email",
    "telephone number": "phone",
    "IP address": "ip_address",
}
"""Of kinds that have a shorter one than their own."""
_SECRET_MASK = "[secret]"
_WINDOW = 4_000
"""Characters that are looked through at a time: detectors take more than in proportion."""
_OVERLAP = 500
"""Of two windows: more than any address or key has, but for private keys, which are looked for in
the whole."""
_MANY_DIGITS = 10**12
"""Numbers from here on may be a card's or a person's."""
_MAX_KNOWN = 50_000
"""Texts that are recognised; a conversation comes again with each call."""
_MAX_KNOWN_CHARACTERS = 8_000_000
"""Of what became of them where something was masked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """A JSON value as it may be written."""

    value: Any
    kinds: frozenset[str]
    """Of what was taken out, as the words that stand there; empty where nothing was."""


class PrivateMask:
    """Masks texts and what is made of them. Used by one thread."""

    def __init__(self, *, wanted_by: str = "masking", instead: str = "mask nothing") -> None:
        """Raises ConfigError where a package is missing: it begins with what wants to mask, and
        advises `instead` beside installing it."""
        try:
            self._finder = PrivateSpanFinder()
        except ConfigError as error:
            raise ConfigError(
                f"{wanted_by}: personal data and secrets are masked by packages that are not "
                f"installed ({error.__cause__}): pip install 'astuner[generation]', or {instead} "
                "to write all that is said as it is"
            ) from error
        self._known: dict[bytes, Masked] = {}
        """By digest; the value is None where nothing was masked."""
        self._known_characters = 0

    def mask(self, value: Any) -> Masked:
        """A copy of a JSON value: its texts, JSON in them included, names and long numbers."""
        kinds: set[str] = set()
        return Masked(value=self._of_value(value, kinds), kinds=frozenset(kinds))

    def _of_value(self, value: Any, kinds: set[str]) -> Any:
        if isinstance(value, str):
            return self._of_text(value, kinds)
        if isinstance(value, Mapping):
            return self._of_mapping(value, kinds)
        if isinstance(value, Sequence) and not isinstance(value, bytes):
            return [self._of_value(item, kinds) for item in value]
        if isinstance(value, int) and abs(value) >= _MANY_DIGITS:
            shown = self._of_plain(str(value), kinds)
            return value if shown == str(value) else shown
        return value

    def _of_mapping(self, mapping: Mapping[Any, Any], kinds: set[str]) -> dict[str, Any]:
        masked: dict[str, Any] = {}
        for key, inner in mapping.items():
            name = self._of_plain(str(key), kinds)
            while name in masked:  # two keys may have become equal
                name += "_"
            if is_secret(str(key)) and _is_told(inner):
                kinds.add("secret")
                masked[name] = _SECRET_MASK
            else:
                masked[name] = self._of_value(inner, kinds)
        return masked

    def _of_text(self, text: str, kinds: set[str]) -> str:
        if text.lstrip()[:1] not in ("{", "["):
            return self._of_plain(text, kinds)
        found: set[str] = set()
        try:
            masked = self._of_value(json.loads(text), found)
        except (ValueError, RecursionError):
            return self._of_plain(text, kinds)
        kinds |= found
        return json.dumps(masked, ensure_ascii=False) if found else text

    def _of_plain(self, text: str, kinds: set[str]) -> str:
        digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()
        if digest not in self._known:
            self._remember(digest, self._looked_through(text))
        masked = self._known[digest]
        kinds |= masked.kinds
        return text if masked.value is None else masked.value

    def _looked_through(self, text: str) -> Masked:
        """Its value is None where nothing is masked."""
        kinds: set[str] = set()
        masked = mask_text(text, _SECRET_MASK)
        if masked != text:
            kinds.add("secret")
        spans = _joined(sorted(self._spans(masked), key=lambda span: (span.begin, -span.end)))
        for span in reversed(spans):
            word = _WORDS.get(span.kind, span.kind.replace(" ", "_"))
            kinds.add(word)
            masked = f"{masked[: span.begin]}[{word}]{masked[span.end :]}"
        return Masked(value=masked if kinds else None, kinds=frozenset(kinds))

    def _spans(self, text: str) -> Iterator[PrivateSpan]:
        for begin in range(0, max(1, len(text) - _OVERLAP), _WINDOW - _OVERLAP):
            for span in self._finder.find(text[begin : begin + _WINDOW]):
                yield PrivateSpan(begin=begin + span.begin, end=begin + span.end, kind=span.kind)

    def _remember(self, digest: bytes, masked: Masked) -> None:
        self._known[digest] = masked
        self._known_characters += len(masked.value or "")
        while len(self._known) > _MAX_KNOWN or self._known_characters > _MAX_KNOWN_CHARACTERS:
            if len(self._known) == 1:  # the one that is needed now
                return
            oldest = self._known.pop(next(iter(self._known)))
            self._known_characters -= len(oldest.value or "")


def _joined(spans: Sequence[PrivateSpan]) -> list[PrivateSpan]:
    """Sorted ones, of which those that overlap become one: two windows may see the same."""
    kept: list[PrivateSpan] = []
    for span in spans:
        if not kept or span.begin >= kept[-1].end:
            kept.append(span)
        elif span.end > kept[-1].end:
            kept[-1] = PrivateSpan(begin=kept[-1].begin, end=span.end, kind=kept[-1].kind)
    return kept


def _is_told(value: Any) -> bool:
    """Whether a value behind a secret name is one: a schema describes it by an object."""
    return isinstance(value, str | int | float) and not isinstance(value, bool) and bool(value)
