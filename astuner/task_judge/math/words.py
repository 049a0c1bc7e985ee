"""Answers that are words: `Tuesday`, `No`, `(C)`, Москва. Their letters' case means nothing, which
in a formula it does; accents count everywhere.
"""

import re
from itertools import pairwise

_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d+|[^\w\s]")
_NO_WORDS = re.compile(r"[\\^_=+*<>{}|\[\]]")
_LETTERS = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2,}|[^\x00-\x7fÀ-ɏ\W\d_]")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_FUNCTIONS = re.compile(
    "a?(?:sin|cos|tan)h?|arc(?:sin|cos|tan)|cot|sec|csc|log|exp|sqrt|max|min|gcd|lcm|det|mod|frac"
    "|and|begin|end|[pbv]?matrix|cases|array|infty|infinity",
    re.IGNORECASE,
)
_CHOICE = re.compile(r"[A-Ea-d]|\(([A-Za-z])\)")
_CHOICES = re.compile(r"[A-Ea-d](?:(?:,|\s?and\s|,\s?and\s)\s?[A-Ea-d])+")
_LETTER = re.compile(r"\b[a-e]\b")
_CHOSEN = re.compile(r"(?:\(([A-Ja-j])\)|([A-J])[.)])\s+([^-+*/^=\s(].*)", re.DOTALL)
_SHORT_WORDS = frozenset(
    re.findall(
        r"\w+",
        "no ok so is it to of at we he as if be by my on up us me go do an or in am pm mr ms dr",
    )
)
_ROMAN = re.compile("[IVX]{2,}|[ivx]{2,}")
_RELATIONS = (
    (
        re.compile(
            r"(?:at least|(?:no|not) (?:less|fewer) than|(?:greater|more) than or equal to)\s"
        ),
        r"\geq ",
    ),
    (
        re.compile(
            r"(?:at most|(?:no|not) (?:more|greater) than|(?:less|fewer) than or equal to)\s"
        ),
        r"\leq ",
    ),
    (re.compile(r"(?:more|greater) than\s"), "> "),
    (re.compile(r"(?:less|fewer) than\s"), "< "),
)
_MAY_BE_RELATION = re.compile(r"than |[Aa]t (?:least|most)")
_IS = re.compile(r"(?<=[A-Za-z]) is (?=[\\<>])")
_LONG = 5
"""A token of so many letters is a word in any mixture of cases."""


def same_words(answer: str, reference: str) -> bool:
    """Whether both are the same words, case aside. Formulas and other products are no words."""
    if choice_of(answer) is not None and choice_of(answer) == choice_of(reference):
        return True
    if _NO_WORDS.search(answer) or _NO_WORDS.search(reference):
        return False
    if _CHOICES.fullmatch(answer) and _CHOICES.fullmatch(reference):
        return sorted(_LETTER.findall(answer.lower())) == sorted(_LETTER.findall(reference.lower()))
    pairs = (_TOKEN.findall(answer), _TOKEN.findall(reference))
    if not len(pairs[0]) == len(pairs[1]) > 0:
        return False
    has_words = any(len(token) > 2 and is_word(token) for token in pairs[0])
    return all(
        _same_token(*pair) or (has_words and pair[0].casefold() == pair[1].casefold() in "abcde")
        for pair in zip(*pairs, strict=True)
    )


def is_verdict(text: str) -> bool:
    """Whether a reference is one of yes, no, true and false, or the letter of a choice."""
    return text.strip().lower() in ("yes", "no", "true", "false") or choice_of(text) is not None


def choice_of(text: str) -> str | None:
    """The letter, small, that `B`, `b` or `(B)` chooses; without brackets A to E and a to d, since
    `e` is a number."""
    match = _CHOICE.fullmatch(text)
    return (match[1] or match[0]).lower() if match else None


def chosen_text(text: str) -> tuple[str, str] | None:
    """The letter, small, and what it stands for in `(B) 12` and `B. 12`; else None."""
    match = _CHOSEN.fullmatch(text)
    return ((match[1] or match[2]).lower(), match[3]) if match else None


def is_prose(text: str) -> bool:
    """Whether the text holds words that are no function names: `Tuesday`, `not 18`."""
    return any(
        (len(token) > 2 or not token.isascii())
        and not _FUNCTIONS.fullmatch(token)
        and is_word(token)
        for token in _LETTERS.findall(_COMMAND.sub(" ", text))
    )


def is_word(token: str) -> bool:
    """Whether letters in a row are a word, and no product such as `xyz`, `nRT` or `Mm`."""
    small = token.casefold()
    if len(token) < _LONG and token not in (small, token.upper(), token.capitalize()):
        return False
    if not token.isascii():
        return len(token) == 1 or not _is_alphabetical(small)
    if len(token) < 3:
        return small in _SHORT_WORDS or _ROMAN.fullmatch(token) is not None
    return not _is_alphabetical(small) and any(vowel in small for vowel in "aeiouy")


def relation_in_signs(text: str) -> str:
    r"""`at least 5` and `x is at least 5` as `\geq 5` and `x \geq 5`."""
    if not _MAY_BE_RELATION.search(text):
        return text
    text = re.sub("^[AMGLFN](?=[a-z])", lambda found: found[0].lower(), text)
    for pattern, sign in _RELATIONS:
        text = pattern.sub(lambda _, sign=sign: sign, text)
    return _IS.sub(" ", text)


def _same_token(one: str, other: str) -> bool:
    if one == other:
        return True
    return one.casefold() == other.casefold() and is_word(one) and is_word(other)


def _is_alphabetical(letters: str) -> bool:
    """Neighbours in the alphabet, as names of points and variables are: `abc`, `xyz`."""
    codes = [ord(letter) for letter in letters]
    return len(codes) > 1 and all(after - before == 1 for before, after in pairwise(codes))
