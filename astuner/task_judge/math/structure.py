r"""Answers of several parts: lists, sets, tuples and intervals, unions, `\pm`, labelled values.

`compare` takes two texts apart until nothing is left to take apart, and asks `same` about those.
Owns no arithmetic.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Same = Callable[[str, str], bool | None]
"""Whether two texts without parts are equal; None: not known."""

MAX_ITEMS = 32
"""A list of more is equal only to the same text."""

_TOKEN = re.compile(
    r"\\begin(?![a-z])|\\end(?![a-z])|\\[{}]|\\[A-Za-z]+|[()\[\]{}]|,\s?(?:and|or)\b|[,;]"
    r"|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|[<>=]"
)
_OPENING = {"(", "[", "{", r"\{", r"\begin", r"\lfloor", r"\lceil", r"\langle"}
_CLOSING = {")", "]", "}", r"\}", r"\end", r"\rfloor", r"\rceil", r"\rangle"}
_ORDERS = {"<", ">", r"\leq", r"\geq"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))", re.ASCII)
_GROUPED_NUMBER = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
_ASSIGNED = re.compile(
    r"(?P<label>(?:\\[A-Za-z]+|[A-Za-z])(?:_\w|_\{[^{}]*\}|'|\([^()]{1,12}\)){0,2})\s?"
    r"(?:=|\\in(?![a-z]))\s?(?P<value>.+)",
    re.ASCII | re.DOTALL,
)
_TURNED = re.compile(
    r"(?P<value>[^=<>A-Za-z]*\d[^=<>A-Za-z]*?)\s?=\s?(?P<label>[A-Za-z])", re.ASCII
)
_NAMED_TUPLE = re.compile(
    r"\((?P<names>[A-Za-z](?:\s?,\s?[A-Za-z])+)\)\s?=\s?\((?P<values>.+)\)", re.ASCII | re.DOTALL
)
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])|\\mp(?![A-Za-z])|\+/-|\+-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A text that was taken apart."""

    kind: Literal["list", "set", "brackets", "union"]
    items: tuple[str, ...]
    brackets: str = ""
    """What opens and what closes it, for "brackets": they tell `[1, 2)` from `(1, 2)`."""
    connective: str = ""
    """`and` or `or`, where a list has it."""
    label: str = ""
    """`n` of `n = 2, 3`."""


def compare(answer: str, reference: str, same: Same) -> bool | None:
    """Whether two texts are equal, part by part. None where `same` leaves that open."""
    texts, labels = _without_labels(answer, reference)
    if labels[0] and labels[1] and labels[0] != labels[1]:
        if any(parts_of(text) for text in texts):
            return False
        return same(answer, reference)
    parts = parts_of(texts[0]), parts_of(texts[1])
    if parts[0] and parts[1]:
        return _compare_parts(parts[0], parts[1], texts, same)
    if not parts[0] and not parts[1]:
        return same(*texts)
    whole = parts[0] or parts[1]
    assert whole is not None
    text = texts[1] if parts[0] else texts[0]
    return _compare_with_one(whole, text, texts, same)


def parts_of(text: str) -> Parts | None:
    """The parts of a text; None where it has none."""
    if _GROUPED_NUMBER.fullmatch(text):
        return None
    bracketed = _bracketed(text)
    if bracketed:
        return bracketed
    items, connective = _split(text, {",", ";", "and", "or"})
    if 1 < len(items) <= MAX_ITEMS:
        items = tuple(value for item in items for value in _both_signs(item))
        return _labelled(Parts(kind="list", items=items, connective=connective))
    items, _ = _split(text, {r"\cup"})
    if 1 < len(items) <= MAX_ITEMS:
        return Parts(kind="union", items=items)
    if _PLUS_MINUS.search(text):
        return Parts(kind="list", items=_both_signs(text))
    return None


def in_usual_order(text: str) -> str:
    """`x = 5` of `5 = x`, and `x = 1, y = 2` of `(x, y) = (1, 2)`; any other text as it is."""
    if match := _TURNED.fullmatch(text):
        return f"{match['label']} = {match['value']}"
    if match := _NAMED_TUPLE.fullmatch(text):
        names = re.split(r"\s?,\s?", match["names"])
        values, _ = _split(match["values"], {","})
        if len(names) == len(values) and _is_balanced(match["values"]):
            return ", ".join(f"{name} = {value}" for name, value in zip(names, values, strict=True))
    return text


def label_and_value(text: str) -> tuple[str, str]:
    r"""`x` and `5` of `x = 5`, or of `x \in …`; an empty label where there is none."""
    match = _ASSIGNED.fullmatch(text)
    if match is None or len(_split(match["value"], {"=", *_ORDERS})[0]) > 1:
        return "", text
    return match["label"], match["value"]


def _without_labels(answer: str, reference: str) -> tuple[tuple[str, str], tuple[str, str]]:
    labelled = label_and_value(answer), label_and_value(reference)
    is_equation = ["=" in value and not label for label, value in labelled]
    if any(is_equation) or any(_is_list_of_labelled(text) for text in (answer, reference)):
        return (answer, reference), ("", "")
    return (labelled[0][1], labelled[1][1]), (labelled[0][0], labelled[1][0])


def _is_list_of_labelled(text: str) -> bool:
    items, _ = _split(text, {",", ";", "and", "or"})
    return len(items) > 1 and all(label_and_value(item)[0] for item in items)


def _labelled(parts: Parts) -> Parts:
    """`x = 1, x = 2` and `x = 1, 2` are `1, 2`."""
    labelled = [label_and_value(item) for item in parts.items]
    labels = [label for label, _ in labelled]
    values = tuple(value for _, value in labelled)
    if labels[0] and (len(set(labels)) == 1 or not any(labels[1:])):
        return replace(parts, items=values, label=labels[0])
    return parts


def _compare_parts(one: Parts, other: Parts, texts: tuple[str, str], same: Same) -> bool | None:
    kinds = {one.kind, other.kind}
    if one.label and other.label and one.label != other.label:
        return False
    if kinds == {"list"}:
        if {one.connective, other.connective} == {"and", "or"} and _has_order(texts[0]):
            return False
        return _compare_lists(one, other, same)
    if kinds == {"set"}:
        return _all(
            _is_subset(one.items, other.items, same), _is_subset(other.items, one.items, same)
        )
    if kinds == {"set", "list"}:
        return _unordered(one.items, other.items, same)
    if kinds == {"brackets"}:
        is_same_kind = one.brackets == other.brackets
        if not is_same_kind and (len(one.items) == 2 or len(other.items) == 2):
            return False
        return _ordered(one.items, other.items, same)
    if kinds == {"brackets", "list"}:
        return _compare_brackets_with_list(one, other, same)
    if "union" in kinds:
        unordered = kinds == {"union"} and _unordered(one.items, other.items, same)
        return unordered or same(*texts)
    return False


def _compare_lists(one: Parts, other: Parts, same: Same) -> bool | None:
    ordered = _values_by_label(one), _values_by_label(other)
    if (ordered[0] is None) != (ordered[1] is None):
        return _ordered(ordered[0] or one.items, ordered[1] or other.items, same)
    return _unordered(one.items, other.items, same)


def _compare_brackets_with_list(one: Parts, other: Parts, same: Same) -> bool | None:
    brackets, listed = (one, other) if one.kind == "brackets" else (other, one)
    values = _values_by_label(listed) or listed.items
    if brackets.brackets == "()":
        return _ordered(brackets.items, values, same)
    if brackets.brackets == "[]" and len(brackets.items) > 2:
        return _unordered(brackets.items, values, same)
    return False


def _values_by_label(parts: Parts) -> tuple[str, ...] | None:
    """`3, 4` of `y = 4, x = 3`; None where not every item has a label of its own."""
    labelled = dict(label_and_value(item) for item in parts.items)
    if "" in labelled or len(labelled) < len(parts.items):
        return None
    return tuple(value for _, value in sorted(labelled.items()))


def _compare_with_one(whole: Parts, text: str, texts: tuple[str, str], same: Same) -> bool | None:
    if whole.kind == "set" and len(whole.items) == 1:
        is_set = whole.items[0] == r"\emptyset" or parts_of(whole.items[0]) is not None
        return False if is_set or text == r"\emptyset" else same(whole.items[0], text)
    if whole.kind == "list":
        chain = _chain(text)
        return _unordered(whole.items, chain, same) if chain and whole.connective != "or" else False
    return same(*texts)


def _chain(text: str) -> tuple[str, ...]:
    r"""`1 < x` and `x \leq 5` of `1 < x \leq 5`; nothing for one relation."""
    terms, _ = _split(text, _ORDERS)
    signs = [token for token, _, _ in _tokens(text) if token in _ORDERS]
    if len(terms) < 3 or len(signs) != len(terms) - 1:
        return ()
    return tuple(
        f"{left} {sign} {right}" for left, sign, right in zip(terms, signs, terms[1:], strict=False)
    )


def _bracketed(text: str) -> Parts | None:
    text = text.replace(r"\langle", "(").replace(r"\rangle", ")")
    opening = r"\{" if text.startswith(r"\{") else text[:1]
    closing = r"\}" if text.endswith(r"\}") else text[-1:]
    is_escaped = (opening, closing) == (r"\{", r"\}")
    # LaTeX writes no plain braces, but data sets do.
    is_set = is_escaped or (opening, closing) == ("{", "}")
    if not is_set and not (opening and opening in "([" and closing and closing in ")]"):
        return None
    inner = text[len(opening) : len(text) - len(closing)].strip()
    if not _is_balanced(inner) or (opening == "{" and _GROUPED_NUMBER.fullmatch(inner)):
        return None
    items, _ = _split(inner, {",", ";"})
    if len(items) > MAX_ITEMS or (len(items) < 2 and not is_escaped):
        return None
    if is_set:
        return Parts(kind="set", items=items)
    return Parts(kind="brackets", items=items, brackets=opening + closing)


def _is_balanced(text: str) -> bool:
    depth = 0
    for _, depth, _ in _tokens(text):
        if depth < 0:
            return False
    return depth == 0


def _split(text: str, separators: set[str]) -> tuple[tuple[str, ...], str]:
    """The parts between separators that stand in no brackets, and the last `and` or `or`."""
    has_wide_separator = ", " in text or ";" in text
    items, start, connective = [], 0, ""
    for token, depth, match in _tokens(text):
        word = token.lstrip(", ")
        if depth or not (token in separators or (token[0] == "," and word in separators)):
            continue
        if token == "," and has_wide_separator and _THOUSANDS.match(text, match.start()):
            continue
        connective = word if word in ("and", "or") else connective
        items.append(text[start : match.start()].strip())
        start = match.end()
    items.append(text[start:].strip())
    return tuple(items) if all(items) else (text,), connective


def _tokens(text: str) -> list[tuple[str, int, re.Match[str]]]:
    """Each sign with the number of brackets open behind it."""
    found, depth = [], 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        depth += (token in _OPENING) - (token in _CLOSING)
        found.append((token, depth, match))
    return found


def _has_order(text: str) -> bool:
    return any(token in _ORDERS for token, _, _ in _tokens(text))


def _both_signs(text: str) -> tuple[str, ...]:
    r"""`3` and `-3` of `\pm 3`; a text without `\pm` alone."""
    if not _PLUS_MINUS.search(text):
        return (text,)
    return _signed(text, "+-"), _signed(text, "-+")


def _signed(text: str, signs: str) -> str:
    def sign(found: re.Match[str]) -> str:
        return signs[1] if found[0] == r"\mp" else signs[0]

    return _PLUS_MINUS.sub(sign, text).removeprefix("+").strip()


def _ordered(one: Sequence[str], other: Sequence[str], same: Same) -> bool | None:
    if len(one) != len(other):
        return False
    return _all(*(compare(*pair, same) for pair in zip(one, other, strict=True)))


def _unordered(one: Sequence[str], other: Sequence[str], same: Same) -> bool | None:
    """Each item of one side has its own equal on the other."""
    if len(one) != len(other):
        return False
    own, others = Counter(one), Counter(other)
    left, is_open = list((others - own).elements()), False
    for item in (own - others).elements():
        verdicts = [compare(item, candidate, same) for candidate in left]
        if True in verdicts:
            del left[verdicts.index(True)]
        elif None in verdicts:
            is_open = True
        else:
            return False
    return None if is_open else True


def _is_subset(one: Sequence[str], other: Sequence[str], same: Same) -> bool | None:
    new = [item for item in one if item not in other]
    return _all(*(_any(*(_same_member(item, found, same) for found in other)) for item in new))


def _same_member(one: str, other: str, same: Same) -> bool | None:
    """A set of one member is not that member, where both are members of a set."""
    kinds = {parts is not None and parts.kind == "set" for parts in map(parts_of, (one, other))}
    return compare(one, other, same) if len(kinds) == 1 else False


def _all(*verdicts: bool | None) -> bool | None:
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _any(*verdicts: bool | None) -> bool | None:
    if True in verdicts:
        return True
    return None if None in verdicts else False
