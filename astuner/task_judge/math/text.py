r"""Where the answer stands in a text, and the same answer without its presentation.

`last_box`, `after_hashes` and `last_number` find it; `plain_math` undresses it: markdown, `$`,
`\text{}`, spacing and look-alike characters go, the mathematics stays. Nothing here compares.
"""

import ast
import json
import re
from collections import deque

from astuner.errors import JudgeError

MAX_TAIL_CHARS = 20_000
"""Only so much of the end of a text is searched for an answer."""

_TEXT_BLOCK = re.compile(r"""['"]text['"]:\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", re.DOTALL)
_BOX_OR_BRACE = re.compile(r"(\\{1,4})(?:boxed|fbox)[ \t]{0,8}\{|\\.|[{}]", re.DOTALL)
_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_FRACTION = r"(?:\d+\s?)?\\[dt]?frac\{-?\d+\}\{-?\d+\}"
_LAST_NUMBER = re.compile(
    rf"(?<![\w.)}}\]])-?[$€£¥]?(?:{_FRACTION}|(?:{_DECIMAL})(?:e[+-]?\d{{1,3}}\b|/\d+)?)"
    r"(?:\s?\\?%|\s?(?:percent|hundred|thousand|million|billion)\b)?",
    re.ASCII | re.IGNORECASE,
)

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"
_WIDE_SPACES = "\u00a0\u2007\u2009\u202f\u3000"
_WIDE_ASCII = {chr(code + 0xFEE0): chr(code) for code in range(ord("!"), ord("~"))}
_LOOK_ALIKES = str.maketrans(
    _WIDE_ASCII
    | dict.fromkeys(_DASHES, "-")
    | dict.fromkeys(_WIDE_SPACES, " ")
    | {"\u00bd": " 1/2", "\u00bc": " 1/4", "\u00be": " 3/4", "\u2044": "/", "\u00f7": "/"}
    | {"\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00b1": r"\pm "}
    | {"\u03c0": r"\pi ", "\u221e": r"\infty ", "\u2248": r"\approx ", "\u00b0": ""}
    | {"\u00b2": "^2", "\u00b3": "^3", "\u2019": "'", "\u3002": "."}
)
_LATEX_NOISE = re.compile(
    r"\\(?:left|right|displaystyle|bigl|bigr|Bigl|Bigr|big|Big)(?![A-Za-z])|(?<!\\)\\[()\[\]!]"
    r"|\^\s?\{?\\circ\}?|\\degree"
)
_LATEX_SPACE = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])")
_TEXT_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s?\{([^{}]*)\}"
)


def answer_text(value: object) -> str:
    """The text of a final answer: a string, a number, or content blocks, also as `str()` of them.

    Raises JudgeError for anything else.
    """
    if isinstance(value, str):
        return _text_of_printed_blocks(value) or value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        return "\n".join(_block_text(block) for block in value)
    raise JudgeError(
        f"cannot judge the final answer: metadata['final_answer'] is {value!r:.80} of type "
        f"{type(value).__name__}; return a string, a number or a list of text blocks"
    )


def _block_text(block: object) -> str:
    if isinstance(block, str):
        return block
    return str(block.get("text", "")) if isinstance(block, dict) else ""


def _text_of_printed_blocks(text: str) -> str | None:
    if text.lstrip()[:2] != "[{" or len(text) > 10 * MAX_TAIL_CHARS:
        return None
    literals = _TEXT_BLOCK.findall(text)
    return "\n".join(_unquote(literal) for literal in literals) if literals else None


def _unquote(literal: str) -> str:
    """A string literal of Python or JSON; both are tried, since `str()` and `json.dumps` differ."""
    try:
        return json.loads(literal)
    except json.JSONDecodeError:
        pass
    try:
        return str(ast.literal_eval(literal))
    except (ValueError, SyntaxError):
        return literal[1:-1]


def last_box(text: str) -> str | None:
    r"""The inside of the `\boxed{…}` that opens last, of those that also close; None without one.

    Backslashes doubled by printing (`\\boxed{\\frac{3}{4}}`) come back single.
    """
    open_braces: list[re.Match[str]] = []
    last: tuple[re.Match[str], int] | None = None
    for token in _BOX_OR_BRACE.finditer(text):
        if token[0].endswith("{") and token[0] != r"\{":
            open_braces.append(token)
        elif token[0] == "}" and open_braces:
            opening = open_braces.pop()
            if opening[1] and (last is None or opening.start() > last[0].start()):
                last = (opening, token.start())
    if last is None:
        return None
    opening, end = last
    content = text[opening.end() : end]
    return content.replace(opening[1], "\\") if len(opening[1]) in (2, 4) else content


def after_hashes(text: str) -> str | None:
    """What follows the last `####`, the mark of GSM8K's answers; None without one."""
    _, mark, rest = text.rpartition("####")
    return rest.strip() if mark else None


def last_number(text: str) -> str | None:
    """The number that stands last in a text, with its sign, fraction and per cent sign."""
    matches = deque(_LAST_NUMBER.finditer(_without_look_alikes(text)), maxlen=1)
    return matches[0][0] if matches else None


def plain_math(text: str) -> str:
    """The same mathematics without markdown, math delimiters, spacing and text wrappers."""
    text = _without_look_alikes(text).replace(r"\%", "%")
    text = _LATEX_SPACE.sub(" ", _LATEX_NOISE.sub("", text))
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    for _ in range(4):
        text = _TEXT_WRAPPER.sub(r" \1 ", text)
    text = re.sub(r"(?:\bUS)?\\?[$€£¥₹₩]", "", text)
    return " ".join(text.split()).strip("*_`\"' ").rstrip(".,;: ").strip("*_`\"' ")


def _without_look_alikes(text: str) -> str:
    return text.translate(_LOOK_ALIKES).replace("{,}", ",")
