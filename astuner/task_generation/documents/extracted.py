"""What a file gave: its blocks and what is to be said about them, also as JSON."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from astuner.task_generation.documents.document import TextBlock
from astuner.task_generation.documents.formats.no_text import NoTextError

MAX_CHARACTERS = 200_000_000
"""Of the text of one file. A table or a tree that names its columns or paths again and again may
become far longer than the file."""

_LINE_ENDS = re.compile("\r\n?|[\f\v\x1c-\x1e\x85\u2028\u2029]")
_UNWANTED = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f\ufeff]")
_HALVES = re.compile("[\ud800-\udfff]")
"""Of a character; they cannot be written as UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractedText:
    """The text of one file."""

    blocks: tuple[TextBlock, ...]
    remarks: tuple[str, ...] = ()
    """What had to be decided or left out, in words."""

    @property
    def digest(self) -> str:
        """SHA-256 of the text and its headings, in hexadecimal digits."""
        whole = hashlib.sha256()
        for block in self.blocks:
            whole.update(json.dumps([*block.headings, block.text]).encode())
        return whole.hexdigest()

    @property
    def text_digest(self) -> bytes:
        """SHA-256 of the text alone, which two files of different names may share."""
        whole = hashlib.sha256()
        for block in self.blocks:
            whole.update(block.text.encode())
        return whole.digest()

    @property
    def is_blank(self) -> bool:
        return all(not block.text or block.text.isspace() for block in self.blocks)


def extracted(blocks: Iterable[TextBlock], remarks: Iterable[str] = ()) -> ExtractedText:
    """The blocks with plain line ends and without controls; raises NoTextError for too many."""
    kept, num_characters = [], 0
    for block in blocks:
        num_characters += len(block.text) + sum(map(len, block.headings))
        if num_characters > MAX_CHARACTERS:
            raise NoTextError(
                f"it becomes more than {MAX_CHARACTERS:,} characters of text; split it into "
                "smaller files"
            )
        kept.append(_plain_block(block))
    return ExtractedText(blocks=tuple(kept), remarks=tuple(remarks))


def to_json(text: ExtractedText) -> str:
    blocks = [[block.text, block.headings, block.num_heading_characters] for block in text.blocks]
    return json.dumps({"blocks": blocks, "remarks": text.remarks, "digest": text.digest})


def from_json(data: str | bytes) -> ExtractedText:
    """Raises ValueError for whatever `to_json` did not write, or was changed since."""
    try:
        read: Any = json.loads(data)
        text = ExtractedText(
            blocks=tuple(
                TextBlock(text=text, headings=tuple(headings), num_heading_characters=number)
                for text, headings, number in read["blocks"]
            ),
            remarks=tuple(read["remarks"]),
        )
        is_whole = read["digest"] == text.digest
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it is no extracted text: {error}") from error
    if not is_whole:
        raise ValueError("its digest is another")
    return text


def _plain_block(block: TextBlock) -> TextBlock:
    heading_line = _plain(block.text[: block.num_heading_characters])
    return TextBlock(
        text=heading_line + _plain(block.text[block.num_heading_characters :]),
        headings=tuple(" ".join(_plain(heading).split()) for heading in block.headings),
        num_heading_characters=len(heading_line),
    )


def _plain(text: str) -> str:
    return _HALVES.sub("\ufffd", _UNWANTED.sub("", _LINE_ENDS.sub("\n", text)))
