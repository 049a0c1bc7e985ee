"""Writes episodes and what was trained of them into the run directory, in order, from a thread of
its own: waiting for the disk would hold up all episodes that still run."""

import asyncio
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Self

from astuner.backbone.record_bound import RecordBound
from astuner.errors import AstunerError
from astuner.run_dir import RunDir, append_lines, json_line
from astuner.trajectory.episode import Episode
from astuner.trajectory.record import episode_to_record, judged_to_record


class EpisodeWriter:
    """`with` it for as long as episodes come. A line is on the disk once `flush` has returned.

    What the file system refuses is raised, as AstunerError, by the next call or at the end.
    """

    def __init__(self, run_dir: RunDir, *, max_records_mb: int | None = None) -> None:
        """With `max_records_mb`, what exceeds it is deleted when the records of a step begin."""
        self._run_dir = run_dir
        self._bound = None
        if max_records_mb is not None:
            self._bound = RecordBound(run_dir, max_records_mb * 1_000_000)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="astuner-episodes")
        self._pending: deque[Future[None]] = deque()
        self._lines: deque[tuple[Path, bytes]] = deque()
        """Those that the thread has not taken yet."""
        self._is_asked = False
        """Whether the thread will take them without being asked again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pending.append(self._thread.submit(self._append_waiting))
        self._thread.shutdown(wait=True)
        if error is None:
            self._raise_failures()

    def write(self, episode: Episode) -> None:
        """Encode the episode now, and write it soon."""
        self.write_line(_line_of(episode), step=episode.step, is_validation=episode.is_validation)

    def write_line(self, line: bytes, *, step: int, is_validation: bool) -> None:
        """The same of one that is encoded already."""
        self._raise_failures()
        path = self._run_dir.episodes_file(step, "validation" if is_validation else "train")
        self._lines.append((path, line))
        if not self._is_asked:
            self._is_asked = True
            self._pending.append(self._thread.submit(self._append_waiting))

    def write_trained(self, lines: Iterable[bytes], *, step: int) -> None:
        """Write soon what was trained in the step; the `lines` are made in the thread too."""
        self._raise_failures()
        path = self._run_dir.training_file(step)
        self._pending.append(self._thread.submit(self._append_all, path, lines))

    def _append_waiting(self) -> None:
        """All that came while the disk was waited for, together: one wait is enough for them."""
        self._is_asked = False
        waiting = [self._lines.popleft() for _ in range(len(self._lines))]
        refusal: AstunerError | None = None
        for path, lines in groupby(waiting, key=itemgetter(0)):
            try:
                if self._bound is not None and not path.exists():
                    self._bound.apply()
                self._append_all(path, [line for _, line in lines])
            except AstunerError as error:  # other files may take theirs
                refusal = refusal or error
        if refusal is not None:
            raise refusal

    def _append_all(self, path: Path, lines: Iterable[bytes]) -> None:
        self._run_dir.check_is_there()
        append_lines(path, lines)

    async def flush(self) -> None:
        """Wait until the disk has all of them."""
        self._pending.append(self._thread.submit(self._append_waiting))
        await asyncio.wrap_future(self._thread.submit(_behind_all_lines))
        self._raise_failures()

    def _raise_failures(self) -> None:
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()


def _line_of(episode: Episode) -> bytes:
    where = f"episode {episode.episode_id}"
    if episode.encoded_calls is None:
        return json_line(episode_to_record(episode), where=where)
    judged = json_line(judged_to_record(episode), where=where)
    return judged.removesuffix(b"}\n") + b", " + episode.encoded_calls + b"}\n"


def _behind_all_lines() -> None:
    """Done once the one thread has seen to every line before it; fails with none of them."""
