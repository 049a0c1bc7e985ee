r"""The spellings of a formula that the LaTeX parser does not know, as those that it does:
`2**3`, `3 pi`, `sqrt(3)`, `exp(9)`, `0.5x`, `0.\overline{3}`, `50%`, `\sin 30°`, `110_2`, `5!!`.
And the letters that it takes for something else: it drops primes and transposes, reads `I` as `i`,
and `\gamma` as `\Gamma` or Euler's constant.
"""

import math
import re

from astuner.task_judge.math.numerals import repeating, with_decimal_numerals

_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])((?:arc|a)?(?:sin|cos|tan)h?|cot|sec|csc|ln|log|exp|sqrt|pi|min|max|gcd|infty)"
    r"(?![A-Za-z])"
)
_DECIMAL = re.compile(r"(?<![\d.])\d*\.\d+(?![\d.]*\.)|(?<![\d.])\d+\.(?![\d.])", re.ASCII)
_REPEATING_DECIMAL = re.compile(r"(?<![\d.])\d*\.\d*(?:\\(?:overline|bar|dot)|\(\d)", re.ASCII)
_WRONG_BASE = re.compile(r"(?<![\w\\}])[A-F]*\d[\dA-F]*\s?_", re.ASCII)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s?%", re.ASCII)
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s?°", re.ASCII)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_THOUSANDS = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])", re.ASCII)
_SQRT_OF_BRACKETS = re.compile(r"\\sqrt\s?(\[\s?\d+\s?\])?\s?\(([^()]*)\)")
_ODD_ROOT_BELOW_ZERO = re.compile(
    r"\\sqrt\s?\[\s?(\d*[13579])\s?\]\s?\{\s?-((?:[^{}+-]|\{[^{}]*\})*)\}", re.ASCII
)
_PRIMED = re.compile(r"(?<!\\)(?<![A-Za-z]{2})([A-Za-z])(?:_(\w|\{\w+\}))?('+)")
_CURRENT = re.compile(r"(\\[A-Za-z]+)|I")
_TRANSPOSE = re.compile(
    r"\^\s?(?:T(?![A-Za-z])|\{\s?T\s?\}|\{?\\(?:top|intercal)(?![A-Za-z])\s?\}?)"
)
_GAMMA = re.compile(r"\\gamma(?![A-Za-z])")
_DOUBLE_FACTORIAL = re.compile(r"(?<![\w.)}!])(\d{1,3})\s?!!(?!!)", re.ASCII)
_NEIGHBOURS = re.compile(r"(?<![\d._^])(?<!frac )\d+(?:\.\d+)?\s+\d+(?![\d\s]*/)", re.ASCII)
_SPACED_THOUSANDS = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?!\d)", re.ASCII)
_FACTOR_BEHIND_FUNCTION = re.compile(
    r"(\\(?:ln|log|(?:arc)?(?:sin|cos|tan)|cot|sec|csc)(?:\s?_\s?(?:\w|\{[^{}]*\}))?)"
    r"\s?(\d+|(?<![A-Za-z])[A-Za-z](?![A-Za-z])|\\(?:pi|theta|alpha|beta))\s?(?=\\cdot|\\times|\*)"
)


def latex_formula(text: str) -> str:
    """What `plain.plain_math` gave, for the parser. All numbers become exact.

    Raises ValueError for a number with digits that its base does not have, and for two numbers next
    to each other.
    """
    text = with_decimal_numerals(text.replace("**", "^"))
    if _WRONG_BASE.search(text):
        raise ValueError(f"no number of that base: {text}")
    text = _SPACED_THOUSANDS.sub(lambda found: found[0].replace(" ", ""), text)
    if _NEIGHBOURS.search(text):
        raise ValueError(f"two numbers without a sign between them: {text}")
    text = _with_letters_of_their_own(text)
    text = _DOUBLE_FACTORIAL.sub(lambda found: str(_double_factorial(int(found[1]))), text)
    text = re.sub(r"(?<![\\A-Za-z])a(sin|cos|tan)(?=\s?\()", r"\\arc\1", text)
    text = _FUNCTION.sub(r"\\\1", text).replace(r"\lg", r"\log_{10}")
    text = _SQRT_OF_BRACKETS.sub(r"\\sqrt\1{\2}", text)
    # The parser takes the complex one.
    text = _ODD_ROOT_BELOW_ZERO.sub(r"(-\\sqrt[\1]{\2})", text)
    text = _FACTOR_BEHIND_FUNCTION.sub(r"\1(\2)", text)
    text = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    text = _with_repeating_decimals(text)
    text = _PERCENT.sub(r"(\\frac{\1}{100})", text)
    if _TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
    text = text.replace("°", "")
    return _DECIMAL.sub(lambda found: _fraction(found[0]), text)


def _with_letters_of_their_own(text: str) -> str:
    text = _PRIMED.sub(_with_named_primes, text)
    text = _CURRENT.sub(lambda found: found[1] or r"\iota ", text).replace(r"\iota _", r"\iota_")
    text = _GAMMA.sub("g_{amma}", text)
    return text if r"\begin" in text else _TRANSPOSE.sub("^{(T)}", text)


def _with_named_primes(found: re.Match[str]) -> str:
    index = (found[2] or "").strip("{}")
    return f"{found[1]}_{{{index}prime{len(found[3])}}}"


def _double_factorial(number: int) -> int:
    return math.prod(range(number, 0, -2))


def _with_repeating_decimals(text: str) -> str:
    while match := _REPEATING_DECIMAL.search(text):
        reading = repeating(text[match.start() :])
        if reading is None:
            return text
        value, length = reading
        written = rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
        text = text[: match.start()] + f"({written})" + text[match.start() + length :]
    return text


def _fraction(decimal: str) -> str:
    whole, _, decimals = decimal.partition(".")
    return rf"(\frac{{{whole}{decimals}}}{{1{'0' * len(decimals)}}})"
