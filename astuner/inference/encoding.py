"""Text into token ids and back, also where other ids stand before it.

SentencePiece tokenizers begin a text with a space of their own and drop it when they decode, and
some end tokens swallow the whitespace behind them. So what is added behind ids is encoded, and what
was sampled behind ids decoded, with the last of these before it. Knows no messages.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

from astuner.inference.token_bytes import spelled_bytes

HALF_CHARACTER = "\ufffd"
"""What bytes decode to that are not, or not yet, a character."""

_READ_WHOLE = 100_000
"""Characters of a text that are encoded without a look at its beginning, some 30 ms."""
_TYPICAL_CHARACTERS = 8
"""Of a token, generously: a text with more of them is looked at again, further on."""
_SEAM_TOKENS = 64
"""By which cutting a text may change the number of its tokens."""
_NUM_ANCHORS = 4
"""Ids that are read again before a text; one alone may say nothing, such as a lone space."""
_SAFE_ANCHORS = ("\n", ".")
"""Texts that rarely grow together with what stands behind them."""
_FEW = 2
"""Ids that are likely to be decoded together again: what a reply grows by, and what is before."""
_MAX_KNOWN = 16_384
"""Texts of few ids that are kept; a transformers tokenizer takes 5 us and more to decode one."""
MAX_BEGINNINGS = 128
LONGEST_BEGINNING = 20_000
"""Texts, and their characters, that are written and encoded once: the attempts of a group begin
with the same."""


class TooLong(Exception):
    """A text has more tokens than there is room for."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__(num_tokens)
        self.num_tokens = num_tokens
        """At least; the rest of the text was not looked at."""


class Encoding:
    """What a Hugging Face tokenizer makes of texts and ids; control tokens stay visible."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known_text = lru_cache(_MAX_KNOWN)(self.decode)
        self._known_ids = lru_cache(MAX_BEGINNINGS)(self._encode)

    @cached_property
    def specials(self) -> dict[str, int]:
        """The tokens that are no pieces of text, special and added ones, with their ids."""
        special = {self.decode([id_]): id_ for id_ in self._tokenizer.all_special_ids}
        return {**self._tokenizer.get_added_vocab(), **special}

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.specials.values())

    @cached_property
    def _begins_texts(self) -> bool:
        """Whether a text is encoded otherwise where nothing stands before it."""
        for text in _SAFE_ANCHORS:
            alone = self.encode(text)
            if self.encode(f"a{text}")[-len(alone) :] != alone:
                return True
        return False

    @cached_property
    def _begins_texts_behind_specials(self) -> bool:
        """Whether a special token lets the text behind it begin with a space of its own."""
        for special in self._tokenizer.all_special_ids[:1]:
            text = f"{self.decode([special])}."
            return self.decode(self.encode(text)) != text
        return False

    def encode(self, text: str) -> tuple[int, ...]:
        return (self._known_ids if len(text) <= LONGEST_BEGINNING else self._encode)(text)

    def _encode(self, text: str) -> tuple[int, ...]:
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

    def encode_behind(
        self, before: Sequence[int], text: str, max_tokens: int = 0
    ) -> tuple[int, ...]:
        """The ids of a text that goes on behind `before`. Raises TooLong as `encode_within` does.

        Encoded with a text before it that is cut off again: the last of what stands there, or one
        that is safe where that would grow together with it.
        """
        if not text:
            return ()
        is_behind_special = bool(before) and before[-1] in self._special_ids
        if not before or not (is_behind_special or self._begins_texts):
            return self.encode_within(text, max_tokens)
        last = before[-1:] if is_behind_special else before[-_NUM_ANCHORS:]
        for anchor in (self.decode(last), *_SAFE_ANCHORS):
            known = self.encode(anchor)
            if not known or HALF_CHARACTER in anchor:
                continue
            ids = self.encode_within(anchor + text, max_tokens + len(known))
            if ids[: len(known)] == known:
                return ids[len(known) :]
        return self.encode_within(text, max_tokens)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def decode_few(self, ids: Sequence[int]) -> str:
        """As `decode`, and cheaper for ids that are decoded again and again, in any thread."""
        return self._known_text(tuple(ids)) if len(ids) <= _FEW else self.decode(ids)

    def decode_behind(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """What ids say that go on behind `before`."""
        anchor = self.anchor(before)
        known, text = self._known_text(anchor), self.decode([*anchor, *ids])
        return text[len(known) :] if text.startswith(known) else self.decode(ids)

    def anchor(self, before: Sequence[int]) -> tuple[int, ...]:
        """The last of these ids, to decode others with.

        None where they end inside of a character, or where a text begins behind them.
        """
        anchor = tuple(before[-_NUM_ANCHORS:])
        if anchor and anchor[-1] in self._special_ids and self._begins_texts_behind_specials:
            return ()
        return () if HALF_CHARACTER in self._known_text(anchor) else anchor

    def token_text(self, id_: int) -> str:
        """What a token adds to a text."""
        return self.decode_behind(self._safe_ids, [id_])

    def token_bytes(self, id_: int) -> bytes | None:
        """What a token adds to a text, in UTF-8; None for parts of characters of unknown bytes."""
        text = self.token_text(id_)
        if HALF_CHARACTER not in text:
            return text.encode()
        return spelled_bytes(self._tokenizer.convert_ids_to_tokens(id_))

    @cached_property
    def _safe_ids(self) -> tuple[int, ...]:
        return self.encode(_SAFE_ANCHORS[0])
