r"""Units behind what is more than a number: `144\pi cm^2` is `144\pi`. Those behind a number are
dropped where that is read (`number.py`).
"""

import re

_UNIT = re.compile(
    r"(?P<formula>.*(?:[\d})!]|\\pi))\s?"
    r"(?:square |cubic |sq\.? |cu\.? )?"
    r"(?:units?|inch(?:es)?|in\.|feet|foot|ft|yards?|miles?|[cmk]m|(?:centi|milli|kilo)?met(?:er|re)s?"
    r"|grams?|kg|kilograms?|pounds?|lit(?:er|re)s?|dollars?|cents?|degrees?|radians?|seconds?|minutes?"
    r"|hours?|days?|mph)"
    r"(?:\s?\^\s?(?:[23]|\{[23]\})| squared| cubed)?",
    re.ASCII | re.DOTALL,
)
_WRAPPED_LETTER = re.compile(
    r"(?<=[\d})i])\s?\\(?:text|mathrm|mbox|textrm)\s?\{\s?[mgs]\s?\}"
    r"(?:\s?\^\s?(?:[23]|\{[23]\}))?\s*$"
)


def without_unit(text: str) -> str:
    """What stands before the unit; the text where it ends with none."""
    if not text[-1:].isalpha() and text[-1:] not in "23}.":
        return text
    match = _UNIT.fullmatch(text)
    return match["formula"] if match else text


def without_wrapped_letter(text: str) -> str:
    r"""The same for `\text{ m}` at the end, which is a variable once it is out of its wrapper."""
    return _WRAPPED_LETTER.sub("", text) if text.rstrip()[-1:] in ("}", "2", "3") else text
