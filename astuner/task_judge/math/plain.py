r"""An answer without its presentation: markdown, `$`, `\text{}`, spacing and look-alike characters
go, the mathematics stays.
"""

import re

from astuner.task_judge.math.characters import ascii_math
from astuner.task_judge.math.units import without_wrapped_letter

_LATEX_NOISE = re.compile(
    r"\\(?:left|right|displaystyle|bigl|bigr|Bigl|Bigr|big|Big)(?![A-Za-z])|(?<!\\)\\[()\[\]!]"
)
_DEGREES = re.compile(r"\^\s?\{?\\circ\}?|\\degree(?![A-Za-z])")
_LATEX_SPACE = re.compile(r"(?<!\\)\\[,;: ]|~|\\q?quad(?![A-Za-z])")
_TEXT_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname)\s?\{([^{}]*)\}"
)
_SYNONYMS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\(?:leqslant|le)(?![A-Za-z])|<=", r"\\leq "),
        (r"\\(?:geqslant|ge)(?![A-Za-z])|>=", r"\\geq "),
        (r"\\ne(?![A-Za-z])|!=", r"\\neq "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\varnothing(?![A-Za-z])|\\\{\s?\\\}", r"\\emptyset "),
        (r"\\(?:ldots|cdots|dots)(?![A-Za-z])", "..."),
        (r"\\[lr]brace(?![A-Za-z])", lambda found: rf"\{'{' if 'l' in found[0] else '}'}"),
        (r"(?<![\\A-Za-z])(?:infinity|inf)(?![A-Za-z])", r"\\infty "),
        (r"\+\s?\\infty", r"\\infty"),
        (r"\^\s?(?:\\prime(?![A-Za-z])|\{\s?\\prime\s?\})", "'"),
        (r"\^\s?\{\s?\\prime\s?\\prime\s?\}", "''"),
    )
)
_MAY_HAVE_SYNONYMS = re.compile(r"\\|[<>!]=|inf")
_GERMAN_COMMA = re.compile(r"(?<=\d)\{,\}(?=(?:\d{1,2}|\d{4,})(?!\d))")
_CURRENCY = re.compile(r"(?:\bUS)?\\?[$€£¥₹₩₽₺₫฿₪]")


def plain_math(text: str) -> str:
    """The same mathematics without markdown, math delimiters, spacing and text wrappers."""
    text = ascii_math(text)
    if "{,}" in text:
        text = _GERMAN_COMMA.sub(".", text).replace("{,}", ",")
    if "\\" in text:
        text = without_wrapped_letter(text)
        text = text.replace(r"\%", "%").replace(r"\_", "_")
        text = _LATEX_SPACE.sub(" ", _LATEX_NOISE.sub("", _DEGREES.sub("°", text)))
        for _ in range(4):
            text = _TEXT_WRAPPER.sub(r" \1 ", text)
    if _MAY_HAVE_SYNONYMS.search(text):
        for pattern, replacement in _SYNONYMS:
            text = pattern.sub(replacement, text)
    text = _without_quotes(" ".join(_CURRENCY.sub("", text).split()))
    return _without_quotes(_without_full_stop(text))


def _without_quotes(text: str) -> str:
    """One behind a letter alone may be a prime: it goes with one in front."""
    text = text.strip('*_`" ')
    return text.strip("' *_`\"") if text.startswith("'") else text


def _without_full_stop(text: str) -> str:
    """Dots that say `and so on` stay: they are part of the answer."""
    bare = text.rstrip(".,;: ")
    goes_on = text[len(bare) :].startswith("...") and not bare.isdecimal()
    return bare + "..." if goes_on else bare
