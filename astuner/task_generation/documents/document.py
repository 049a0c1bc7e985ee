"""A document as text, and the pieces of it that a model is shown."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TextBlock:
    """Text under one heading. White space between two blocks stands in them."""

    text: str
    headings: tuple[str, ...] = ()
    """Those that it stands under, the outermost first."""
    num_heading_characters: int = 0
    """Of its text, from the beginning: the line of its own heading, where that stands there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDocument:
    """A file that was read."""

    name: str
    """Its path below the folder that was named, with slashes; unique in a set."""
    digest: str
    """SHA-256 of its text and headings, in hexadecimal digits."""
    format: str
    """As it was read: text, markdown, html, pdf, docx, csv, json, code."""
    blocks: tuple[TextBlock, ...]

    @property
    def num_characters(self) -> int:
        return sum(len(block.text) for block in self.blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadDocument:
    """A file that gives no text."""

    name: str
    reason: str
    """In words, with what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSet:
    """All that was found; nothing is left out without a word."""

    documents: Sequence[SourceDocument]
    """By name."""
    unread: Sequence[UnreadDocument]


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentChunk:
    """A piece of a document that a draft is made from."""

    document: str
    """Name of its document."""
    number: int
    """Within the document, from 0."""
    text: str
    headings: tuple[str, ...] = ()
    """Those that its beginning stands under, the outermost first."""
    num_tokens: int | None = None
    """None where nothing counts tokens."""

    @property
    def digest(self) -> str:
        """Equal for equal text under equal headings, whatever document it stands in."""
        whole = "\0".join((*self.headings, self.text))
        return hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()
