"""From the paths of a setting to the documents of a set."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from astuner.errors import TaskReadError
from astuner.machine.regular_file import open_regular
from astuner.task_generation.documents.apart import ApartReader
from astuner.task_generation.documents.document import DocumentSet, SourceDocument, UnreadDocument
from astuner.task_generation.documents.extracted import ExtractedText
from astuner.task_generation.documents.formats.known import DocumentFormat, format_of
from astuner.task_generation.documents.formats.no_text import NoTextError
from astuner.task_generation.documents.found_documents import (
    SETTING,
    FoundDocument,
    find_documents,
)
from astuner.task_generation.documents.text_cache import TextCache, cache_key

_MAX_NAMED = 5


def _no_progress(num_done: int, num_found: int) -> None:
    """Nobody watches."""


def read_documents(
    paths: Sequence[str],
    search_dirs: Sequence[Path],
    *,
    cache_dir: Path | None,
    max_file_bytes: int,
    say: Callable[[str], None],
    on_progress: Callable[[int, int], None] = _no_progress,
    set_folder: Path | None = None,
) -> DocumentSet:
    """The documents that the paths mean, by name, and all other files, with the reason.

    What had to be decided over a file, such as its encoding, is said. `on_progress` is told how
    many of how many files were looked at. Of files with equal text the first is a document. Raises
    ConfigError for a path that means no file or reads `set_folder`, where the tasks go, and
    TaskReadError where no file gives text.
    """
    found = find_documents(paths, search_dirs, set_folder=set_folder)
    documents: dict[bytes, SourceDocument] = {}
    """By the digest of their text."""
    unread: list[UnreadDocument] = []
    with _FileReader(cache_dir, max_file_bytes=max_file_bytes) as reader:
        for number, file in enumerate(found):
            on_progress(number, len(found))
            try:
                document, text = reader.read(file)
                if (same := documents.get(text.text_digest)) is not None:
                    raise NoTextError(f"the same text as {same.name}, which is read")
            except NoTextError as error:
                unread.append(UnreadDocument(name=file.name, reason=str(error)))
                continue
            documents[text.text_digest] = document
            for remark in text.remarks:
                say(f"{file.name}: {remark}")
    on_progress(len(found), len(found))
    if found and not documents:
        raise TaskReadError(_describe_unread(unread))
    return DocumentSet(documents=tuple(documents.values()), unread=tuple(unread))


class _FileReader:
    """Reads one file after the other; the process for difficult ones starts with the first."""

    def __init__(self, cache_dir: Path | None, *, max_file_bytes: int) -> None:
        self._cache = TextCache(cache_dir)
        self._max_file_bytes = max_file_bytes
        self._apart: ApartReader | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "_FileReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, file: FoundDocument) -> tuple[SourceDocument, ExtractedText]:
        """And what it was made from. Raises NoTextError."""
        if file.trouble is not None:
            raise NoTextError(file.trouble)
        data = _read_bytes(file.path, self._max_file_bytes)
        read_as = format_of(file.name, data)
        text = self._text(data, file.name, read_as)
        if text.is_blank:
            raise NoTextError("it holds no text; leave it out")
        document = SourceDocument(
            name=file.name, digest=text.digest, format=read_as.name, blocks=text.blocks
        )
        return document, text

    def _text(self, data: bytes, name: str, read_as: DocumentFormat) -> ExtractedText:
        try:
            version = read_as.package_version()
        except NoTextError:
            # Perhaps the set is whole, and was made where the package is installed.
            key = cache_key(data, format_name=read_as.name, package_version=None)
            if (kept := self._cache.read_of_any_version(key)) is not None:
                return kept
            raise
        if not read_as.is_apart:
            return read_as.read(data, name)
        key = cache_key(data, format_name=read_as.name, package_version=version)
        cached = self._cache.read(key)
        if cached is not None:
            return cached
        if self._apart is None:
            self._apart = self._stack.enter_context(ApartReader())
        text = self._apart.read(data, name)
        self._cache.write(key, text)
        return text


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise NoTextError(
            f"it cannot be opened: {error.strerror}; mend it, or leave it out"
        ) from error
    if len(data) > max_bytes:
        raise NoTextError(
            f"it is larger than {max_bytes / 1e6:,g} MB; split it, or raise "
            "task_reader.data_generation.document_reader.max_file_mb"
        )
    return data


def _describe_unread(unread: Sequence[UnreadDocument]) -> str:
    named = "; ".join(f"{file.name}: {file.reason}" for file in unread[:_MAX_NAMED])
    more = f"; and {len(unread) - _MAX_NAMED} more" if len(unread) > _MAX_NAMED else ""
    return f"{SETTING}: none of {len(unread)} files gives text; {named}{more}"
