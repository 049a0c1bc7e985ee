"""The table of formats, and which of them a file has."""

import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from astuner.task_generation.documents.document import TextBlock
from astuner.task_generation.documents.extracted import ExtractedText, extracted
from astuner.task_generation.documents.formats.decoding import decode
from astuner.task_generation.documents.formats.html_page import read_html
from astuner.task_generation.documents.formats.json_values import read_json, read_json_lines
from astuner.task_generation.documents.formats.markdown_text import markdown_blocks
from astuner.task_generation.documents.formats.no_text import NoTextError
from astuner.task_generation.documents.formats.pdf_pages import read_pdf
from astuner.task_generation.documents.formats.plain_text import code_blocks, plain_blocks
from astuner.task_generation.documents.formats.separated_values import separated_blocks
from astuner.task_generation.documents.formats.word_document import read_docx


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFormat:
    """How files of one kind are read."""

    name: str
    """As in `SourceDocument.format`."""
    suffixes: tuple[str, ...]
    read: Callable[[bytes, str], ExtractedText]
    """Given all of a file, and its name. Raises NoTextError."""
    is_apart: bool = False
    """Whether it is read in a process of its own, since a hostile file may take for ever or all
    memory; also a sign that reading takes long."""
    package: str | None = None
    """That has to be installed, by its name for pip."""

    def package_version(self) -> str | None:
        """Of what is installed; raises NoTextError where that is nothing."""
        try:
            return self.package and importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError as error:
            raise NoTextError(
                f"reading {self.name} needs {self.package}, which is not installed; "
                "`pip install 'astuner[docs]'`"
            ) from error


def _in_blocks(
    read_blocks: Callable[[str, str], Iterable[TextBlock]], data: bytes, name: str
) -> ExtractedText:
    decoded = decode(data)
    remarks = (decoded.remark,) if decoded.remark else ()
    return extracted(read_blocks(decoded.text, name), remarks)


def _in_json(read: Callable[[str], ExtractedText], data: bytes, name: str) -> ExtractedText:
    return read(decode(data).text)


def _alone(read: Callable[[bytes], ExtractedText], data: bytes, name: str) -> ExtractedText:
    return read(data)


TEXT = DocumentFormat(
    name="text",
    suffixes=(".txt", ".text", ".log", ".rst", ".adoc", ".org", ".tex"),
    read=partial(_in_blocks, plain_blocks),
)
PDF = DocumentFormat(
    name="pdf", suffixes=(".pdf",), read=partial(_alone, read_pdf), is_apart=True, package="pypdf"
)
DOCX = DocumentFormat(
    name="docx",
    suffixes=(".docx",),
    read=partial(_alone, read_docx),
    is_apart=True,
    package="python-docx",
)
FORMATS = (
    TEXT,
    DocumentFormat(
        name="markdown",
        suffixes=(".md", ".markdown", ".mdx", ".qmd", ".rmd"),
        read=partial(_in_blocks, markdown_blocks),
    ),
    DocumentFormat(
        name="html",
        suffixes=(".html", ".htm", ".xhtml"),
        read=partial(_alone, read_html),
        is_apart=True,
    ),
    PDF,
    DOCX,
    DocumentFormat(
        name="csv", suffixes=(".csv", ".tsv"), read=partial(_in_blocks, separated_blocks)
    ),
    DocumentFormat(
        name="json", suffixes=(".json",), read=partial(_in_json, read_json), is_apart=True
    ),
    DocumentFormat(
        name="json",
        suffixes=(".jsonl", ".ndjson"),
        read=partial(_in_json, read_json_lines),
        is_apart=True,
    ),
    DocumentFormat(
        name="code",
        suffixes=(
            *(
                ".py",
                ".pyi",
                ".js",
                ".mjs",
                ".ts",
                ".jsx",
                ".tsx",
                ".vue",
                ".java",
                ".kt",
                ".scala",
            ),
            *(".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".cs", ".go", ".rs", ".swift", ".m", ".rb"),
            *(".php", ".pl", ".lua", ".r", ".jl", ".hs", ".ml", ".ex", ".erl", ".clj", ".dart"),
            *(
                ".sh",
                ".bash",
                ".zsh",
                ".ps1",
                ".bat",
                ".sql",
                ".proto",
                ".graphql",
                ".css",
                ".scss",
            ),
            *(
                ".yaml",
                ".yml",
                ".toml",
                ".ini",
                ".cfg",
                ".conf",
                ".xml",
                ".cmake",
                ".gradle",
                ".tf",
            ),
        ),
        read=partial(_in_blocks, code_blocks),
    ),
)
_BY_SUFFIX = {suffix: found for found in FORMATS for suffix in found.suffixes}
_SAVE_AS = {
    **dict.fromkeys((".doc", ".odt", ".rtf", ".pages"), "docx"),
    **dict.fromkeys((".xls", ".xlsx", ".ods", ".parquet", ".numbers"), "csv"),
    **dict.fromkeys((".ppt", ".pptx", ".odp", ".key"), "pdf"),
    **dict.fromkeys((".epub", ".mobi"), "html"),
}
"""What is not read, and as what it is."""


def format_of(name: str, data: bytes) -> DocumentFormat:
    """By the content where that is plain, else by the suffix; text where it is not known.

    Raises NoTextError for a format that is not read.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if data.startswith(b"%PDF-"):
        return PDF
    if data.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") and suffix in (".doc", ".docx"):
        raise NoTextError(
            "it is a Word document of the old format, or has a password; save it as docx without "
            "one"
        )
    if suffix in _SAVE_AS:
        raise NoTextError(f"{suffix} is not read; save it as {_SAVE_AS[suffix]}")
    if data.startswith(b"PK\x03\x04") and b"word/document.xml" in data:
        return DOCX
    return _BY_SUFFIX.get(suffix, TEXT)
