r"""Unicode as ASCII and LaTeX: `２⁵ ≤ ٣٥` is `2^5 \leq 35`. Words of any script stay."""

import functools
import re
import unicodedata

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_SUPERSCRIPTS = re.compile("[\u00b2\u00b3\u00b9\u2070\u2071\u2074-\u207f\u02e3\u02b8]+")
_SUBSCRIPTS = re.compile("[\u2080-\u208e\u2090-\u209c\u1d62-\u1d65\u2c7c]+")
_OVERLINED = re.compile("((?:\\d\u0305)+)")
_ROOT = re.compile("([\u221a-\u221c])\\s?(?:\\(([^()]*)\\)|\\{([^{}]*)\\}|(\\d+(?:\\.\\d+)?|\\w))")
_ROOTS = {"\u221a": r"\sqrt", "\u221b": r"\sqrt[3]", "\u221c": r"\sqrt[4]"}
_GREEK_RUN = re.compile("[\u0370-\u03ff\u1f00-\u1fff]+")
_LONGEST_GREEK_PRODUCT = 2
"""More letters of Greek next to each other are a word."""

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"
_CROSSES = "\u274c\u274e\u2717\u2718"
"""These say that an answer is wrong, and so are no decoration."""
_SYMBOLS = (
    dict.fromkeys(_DASHES, "-")
    | {"\u2044": "/", "\u2215": "/", "\u00f7": "/", "\u2236": ":"}
    | {"\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u2219": r"\cdot "}
    | {"\u00b1": r"\pm ", "\u2213": r"\mp ", "\u221e": r"\infty ", "\u2248": r"\approx "}
    | {"\u2264": r"\leq ", "\u2265": r"\geq ", "\u2a7d": r"\leq ", "\u2a7e": r"\geq "}
    | {"\u2266": r"\leq ", "\u2267": r"\geq ", "\u2260": r"\neq "}
    | {"\u222a": r"\cup ", "\u2229": r"\cap ", "\u2208": r"\in ", "\u2216": r"\setminus "}
    | {"\u2261": r"\equiv "}
    | {"\u2205": r"\emptyset ", "\u2300": r"\emptyset ", "\u2032": "'", "\u2019": "'"}
    | {"\u2102": r"\mathbb{C}", "\u2115": r"\mathbb{N}", "\u211a": r"\mathbb{Q}"}
    | {"\u211d": r"\mathbb{R}", "\u2124": r"\mathbb{Z}", "\u00b0": "\u00b0", "\u2103": "\u00b0C"}
    | {
        "\u2109": "\u00b0F",
        "\u2192": " ",
        "\u21d2": " ",
        "\u2022": " ",
        "\u2234": " ",
        "\u2026": "...",
    }
    | {"\u066b": ".", "\u066c": ",", "\u066a": "%", "\u3002": ".", "\u3001": ",", "\u061f": "?"}
    | dict.fromkeys("\u300c\u300d\u300e\u300f\u3010\u3011\u27f6\u27f9", " ")
    | dict.fromkeys("\u201c\u201d\u00ab\u00bb", '"')
    | {cross: cross for cross in _CROSSES}
)
_SAME_TAGS = {"<font>", "<wide>", "<narrow>", "<small>", "<compat>", "<square>"}
_INVISIBLE = {"Cf", "So", "Sk", "Me"}
"""Categories of emoji, arrows, and marks that only steer how text is shown."""


def ascii_math(text: str) -> str:
    """The same mathematics with digits, signs and letters of formulas in ASCII and LaTeX."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text).replace("\u00b5", "\u03bc")
    text = _OVERLINED.sub(lambda run: r"\overline{" + run[1].replace("\u0305", "") + "}", text)
    text = _SUPERSCRIPTS.sub(lambda run: _raised("^", run[0]), text)
    text = _SUBSCRIPTS.sub(lambda run: _raised("_", run[0]), text)
    text = _ROOT.sub(lambda found: _ROOTS[found[1]] + _braced(found.group(2, 3, 4)), text)
    text = _with_greek_letters(text)
    return _NOT_ASCII.sub(lambda found: _plain(found[0]), text)


def _raised(mark: str, run: str) -> str:
    inner = unicodedata.normalize("NFKC", run).replace("\u2212", "-")
    return f"{mark}{inner}" if len(inner) == 1 else f"{mark}{{{inner}}}"


def _braced(inner: tuple[str | None, ...]) -> str:
    return "{" + next(part for part in inner if part is not None) + "}"


def _with_greek_letters(text: str) -> str:
    runs = _GREEK_RUN.findall(text)
    if any(len(run) > _LONGEST_GREEK_PRODUCT for run in runs):
        return text
    return _GREEK_RUN.sub(lambda run: "".join(map(_greek_letter, run[0])), text)


@functools.cache
def _greek_letter(char: str) -> str:
    words = unicodedata.name(char, "").split()
    if words[:1] != ["GREEK"] or words[2:3] != ["LETTER"] or len(words) != 4:
        return char
    name = {"LAMDA": "lambda"}.get(words[3], words[3].lower())
    return rf"\{name.capitalize()} " if words[1] == "CAPITAL" else rf"\{name} "


@functools.cache
def _plain(char: str) -> str:
    if char in _SYMBOLS:
        return _SYMBOLS[char]
    digit = unicodedata.decimal(char, None)
    if digit is not None:
        return str(digit)
    tag = unicodedata.decomposition(char).partition(" ")[0]
    if tag == "<fraction>":
        return " " + unicodedata.normalize("NFKC", char).replace("\u2044", "/")
    category = unicodedata.category(char)
    if category == "Zs":
        return " "
    if tag in _SAME_TAGS:
        return unicodedata.normalize("NFKC", char)
    is_selector = "\ufe00" <= char <= "\ufe0f"
    return " " if category in _INVISIBLE or is_selector else char
