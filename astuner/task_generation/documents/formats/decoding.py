"""From bytes to text: which encoding they are in, and whether they are text at all."""

import codecs
import re
from dataclasses import dataclass

from astuner.task_generation.documents.formats.no_text import NoTextError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS = bytes(set(range(32)) - {0x08, *b"\t\n\v\f\r\x1b"})
"""Bytes that no text has; the others are written by programs that draw in a terminal."""
_MAX_HIGH_SHARE = 0.3
"""Of the bytes of a text in Latin-1. Its languages stay far below; Chinese, Cyrillic or Greek in an
encoding of their own is far above."""
_NO_TEXT = "it is no text but binary data ({found}); if it is meant to be read, save it as UTF-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedText:
    text: str
    remark: str | None
    """What had to be decided, in words."""


def decode(data: bytes) -> DecodedText:
    """Text in UTF-8, in UTF-16 or UTF-32 with a byte order mark, or else in Latin-1.

    Raises NoTextError where it is none of them.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _decode_marked(data[len(mark) :], encoding)
    if zero := data.find(0) + 1:
        raise NoTextError(_NO_TEXT.format(found=f"byte {zero} is zero"))
    try:
        return DecodedText(text=data.decode(), remark=None)
    except UnicodeDecodeError as error:
        return _decode_other(data, error)


def _decode_marked(data: bytes, encoding: str) -> DecodedText:
    try:
        return DecodedText(text=data.decode(encoding), remark=None)
    except UnicodeDecodeError as error:
        raise NoTextError(
            f"it begins as {encoding.upper()} and is none: {error.reason} at byte {error.start}; "
            "save it as UTF-8"
        ) from error


def _decode_other(data: bytes, error: UnicodeDecodeError) -> DecodedText:
    if len(data.translate(None, _CONTROLS)) < len(data):
        raise NoTextError(_NO_TEXT.format(found=f"{error.reason} at byte {error.start}"))
    damaged = data.decode(errors="replace")
    num_wrong = damaged.count("\ufffd")
    num_right = sum(map(len, re.findall("[^\x00-\x7f\ufffd]+", damaged)))
    if num_right > num_wrong:
        places = "1 place" if num_wrong == 1 else f"{num_wrong} places"
        return DecodedText(text=damaged, remark=f"{places} in it are no UTF-8 and read as \ufffd")
    num_high = len(data) - len(data.translate(None, bytes(range(128, 256))))
    if num_high > _MAX_HIGH_SHARE * len(data):
        raise NoTextError(
            f"its encoding is not known: {error.reason} at byte {error.start}, so it is no UTF-8, "
            f"and {num_high / len(data):.0%} of it are no ASCII, so it is no Latin-1; save it as "
            "UTF-8"
        )
    return DecodedText(text=_decode_latin(data), remark="it is no UTF-8, and read as Latin-1")


def _decode_latin(data: bytes) -> str:
    """With the quotation marks that Windows writes where Latin-1 has controls."""
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")
