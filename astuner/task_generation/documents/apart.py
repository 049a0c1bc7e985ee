"""Reads files of difficult formats in a process that is ended where it takes too long."""

import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from astuner.task_generation.documents.extracted import ExtractedText, from_json
from astuner.task_generation.documents.formats.no_text import NoTextError
from astuner.workers.pool import Computation, Unanswerable, WorkerFailure, WorkerPool

MAX_SECONDS = 180.0
"""For one file. pypdf reads some ten pages a second."""

_COMPUTATION = Computation(
    process="the process that reads documents",
    file=Path(__file__).with_name("apart_child.py"),
    module="astuner.task_generation.documents.formats.known",
    package="astuner",
)


class ApartReader:
    """Owns a folder for what was read and the process that reads, started by the first file.

    A caller that is interrupted ends the process at once.
    """

    def __init__(self, *, max_seconds: float = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._pool = WorkerPool(_COMPUTATION, num_workers=1)
        self._folder = tempfile.TemporaryDirectory(prefix="astuner-documents-")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.close()
        self._folder.cleanup()

    def read(self, data: bytes, name: str) -> ExtractedText:
        """The text of a file; raises NoTextError also where there is no telling why.

        Given all of the file, so that what is read is what its digest is of.
        """
        given, output = (Path(self._folder.name, part) for part in ("given", "output"))
        try:
            given.write_bytes(data)
            request = {"file": str(given), "name": name, "output": str(output)}
            answer = self._pool.ask(request, timeout_seconds=self._max_seconds)
            if "reason" in answer:
                raise NoTextError(answer["reason"])
            return from_json(output.read_bytes())
        except Unanswerable as error:
            raise NoTextError(f"reading it failed: {error}; save it in another format") from error
        except WorkerFailure as error:
            raise NoTextError(f"reading it failed: {error}") from error
        except OSError as error:
            raise NoTextError(
                f"reading it failed: {error.filename}: {error.strerror}; free room on the disk"
            ) from error
