r"""The text of a final answer, and the marks in it: `\boxed{}` and `####`. Compares nothing."""

import ast
import json
import re

from astuner.errors import JudgeError

MAX_TAIL_CHARS = 20_000
"""Only so much of the end of a text is searched for an answer."""

_TEXT_BLOCK = re.compile(r"""['"]text['"]:\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""", re.DOTALL)
_BOX_OR_BRACE = re.compile(
    r"(\\{1,4})(?:boxed|fbox)[ \t]{0,8}"
    r"(?:\{|(?P<bare>[-+]?\d(?:[\w.,/]{0,40}\w)?|[A-Z](?!\w)))|\\.|[{}]",
    re.DOTALL,
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
    `\boxed 7` is a box too.

    Backslashes doubled by printing (`\\boxed{\\frac{3}{4}}`) come back single.
    """
    open_braces: list[re.Match[str]] = []
    last: tuple[re.Match[str], int] | None = None
    for token in _BOX_OR_BRACE.finditer(text):
        if token["bare"]:
            last = _later(last, (token, token.end()))
        elif token[0].endswith("{") and token[0] != r"\{":
            open_braces.append(token)
        elif token[0] == "}" and open_braces:
            opening = open_braces.pop()
            if opening[1]:
                last = _later(last, (opening, token.start()))
    if last is None:
        return None
    opening, end = last
    content = opening["bare"] or text[opening.end() : end]
    return content.replace(opening[1], "\\") if len(opening[1]) in (2, 4) else content


def _later(
    one: tuple[re.Match[str], int] | None, other: tuple[re.Match[str], int]
) -> tuple[re.Match[str], int]:
    return one if one and one[0].start() > other[0].start() else other


def after_hashes(text: str) -> str | None:
    """What follows the last `####`, the mark of GSM8K's answers; None without one."""
    _, mark, rest = text.rpartition("####")
    return rest.strip() if mark else None
