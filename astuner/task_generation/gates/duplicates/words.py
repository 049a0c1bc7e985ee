"""A question as its words, and as the set of its pairs of words."""

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Sequence

import numpy

_EAST_ASIAN = r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
_SIGN = r"[-+*/^%=<>\u2212\u00d7\u00f7\u2260\u2264\u2265]"
_OPERATOR = re.compile(rf"(?<=\d){_SIGN}|(?<=\d\s){_SIGN}|{_SIGN}(?=\s?\d)")
"""A sign beside a number: 1 + 5 is another question than 1 - 5."""
_WORD = re.compile(rf"{_EAST_ASIAN}|(?:(?!{_EAST_ASIAN})\w)+|{_OPERATOR.pattern}")
_EDGE = ""
"""Stands before the first word and behind the last one."""


def words_of(text: str) -> Sequence[str]:
    """Words without case, compatibility forms and punctuation, but with the operators of sums.

    Chinese and Japanese are written without spaces: each of their characters is a word.
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def operators_of(text: str) -> frozenset[str]:
    """The signs that `words_of` keeps."""
    return frozenset(_OPERATOR.findall(unicodedata.normalize("NFKC", text)))


def hashed_pairs(words: Sequence[str]) -> numpy.ndarray:
    """Hashes of all pairs of neighbouring words, each once, in order of their value; uint64.

    Pairs, since a changed word costs two of them: one of eleven words leaves an overlap of 0.71,
    and of longer n-grams, which the usual question of ten words has few of, much less.
    """
    edged = (_EDGE, *words, _EDGE)
    pairs = {f"{first}\0{second}".encode() for first, second in itertools.pairwise(edged)}
    digests = (hashlib.blake2b(pair, digest_size=8).digest() for pair in pairs)
    return numpy.unique(numpy.frombuffer(b"".join(digests), dtype="<u8"))
