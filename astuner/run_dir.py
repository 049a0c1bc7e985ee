"""The run directory: the only file that knows its paths, and how its jsonl files are written.

    launcher_record/
      {name of the YAML}/
        latest                       -> the newest run that trains; until there is one, the newest
        2025-12-01_09-30-00/
          started.json               number of the run among those beside it, its kind, and when it
                                     began
          config.yaml                the resolved configuration; config_2.yaml when resumed
          auto_grader.json           the rubrics that were drafted; auto_grader_2.json anew
          run.log                    everything that was logged
          logs/                      what each process of a cluster printed
          metrics.jsonl              one object per step
          warm_start.jsonl           one object per update before the first step
          events.jsonl               when the run began, what happened to it, how it ended
          vocabulary.json            what each token id stands for
          episodes/
            step_000003.jsonl        one object per episode of that step
            validation_000020.jsonl  one object per episode of the validation at that step
          training/
            step_000003.jsonl        one object per sample that was trained in that step
          checkpoints/
            step_20/                 complete as soon as it has this name
            warm_start/              what the first step began from; no step, and always kept
            best                     -> the one that did best in validation
          set_aside/
            2025-12-01_14-02-11/     what lay beyond the step from which a run was resumed then

Nothing here is deleted or overwritten by a later run, save for checkpoints beyond
trainer_common.keep_checkpoints, training states beyond save_optimizer and records beyond
max_records_mb.

Folders are named by local time, for people. Their order is that of the number in started.json,
each one more than any beside it: a clock or a time zone may go back, a count does not.
"""

import fcntl
import json
import logging
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from astuner.errors import AstunerError, BackboneError, ConfigError
from astuner.machine.os_errors import advice, told
from astuner.machine.regular_file import open_regular

logger = logging.getLogger(__name__)

_QUIET_SECONDS = 24 * 3600.0
"""Longer than a step takes, so that a run which is at work has written something since."""

_LOOKER_SECONDS = (0.01, 0.05, 0.1)
"""How long to wait for one who only looks, after each try."""

_START_AGAIN = "start again, a training with --resume where it has a checkpoint"

LATEST = "latest"
BEST = "best"
EpisodeKind = Literal["train", "validation"]
RunKind = Literal["training", "debug", "evaluation", "measurement"]
_FILE_PREFIX: Mapping[EpisodeKind, str] = {"train": "step", "validation": "validation"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDir:
    """The paths of one run. Folders other than the root are made when something is written."""

    root: Path

    @classmethod
    def create(
        cls,
        base: Path,
        conf_stem: str,
        *,
        is_latest: bool = True,
        kind: RunKind | None = None,
    ) -> "RunDir":
        """Make the folder `base/conf_stem/{start time}` and point `latest` beside it there.

        Where it is not to be the latest, `latest` stays, unless no run that trains is there yet.
        `kind` None is "training", and "evaluation" where it is not to be the latest.

        An existing folder is never used again: a second run of the same second gets a suffix.
        Raises ConfigError when the folder cannot be made.
        """
        parent = base / conf_stem
        try:
            parent.mkdir(parents=True, exist_ok=True)
            with _locked(parent):
                number = 1 + max((run.number for run in cls.all(base, conf_stem)), default=0)
                root = _new_folder(parent, datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
                run = cls(root=root)
                started = {
                    "number": number,
                    "started": datetime.now(UTC).isoformat(),
                    "kind": kind or ("training" if is_latest else "evaluation"),
                }
                append_json_line(run._started_file, started)
                latest = cls.latest(base, conf_stem)
                if is_latest or latest is None or latest.is_no_training:
                    _point(parent / LATEST, to=root)
        except AstunerError as error:
            raise ConfigError(str(error)) from error
        except OSError as error:
            raise ConfigError(
                f"the run directory {parent} cannot be made: {error.strerror} "
                f"({error.filename}); give another folder by --exp-dir or astuner.experiment_dir"
            ) from error
        return run

    @classmethod
    def latest(cls, base: Path, conf_stem: str) -> "RunDir | None":
        """The newest run of this name that trains, and until there is one, the newest of any kind;
        None when there is none."""
        root = _pointed_to(base / conf_stem / LATEST)
        return cls(root=root) if root is not None else None

    @classmethod
    def all(cls, base: Path, conf_stem: str) -> list["RunDir"]:
        """The runs of this name in the order of their starts.

        Those of releases that did not number them come first, by the time in their names.
        """
        folders = [path for path in (base / conf_stem).glob("[!.]*") if not path.is_symlink()]
        runs = [cls(root=path) for path in folders if path.is_dir()]
        return sorted(runs, key=lambda run: run.order)

    @property
    def order(self) -> tuple[int, list[int]]:
        """Sorts the runs of one name by their starts."""
        return self.number, _time_in(self.root)

    @property
    def number(self) -> int:
        """Counts the runs of one name from 1; 0 where it is not known."""
        number = self._started("number")
        return number if isinstance(number, int) else 0

    @property
    def kind(self) -> str | None:
        """What it does, a `RunKind`; None where it is not known, as of earlier releases."""
        kind = self._started("kind")
        return kind if isinstance(kind, str) else None

    @property
    def is_no_training(self) -> bool:
        """Whether it is known that it trains nothing."""
        return self.kind not in (None, "training")

    def _started(self, key: str) -> Any:
        """None where it is not known."""
        try:
            return next(read_json_lines(self._started_file)).get(key)
        except (OSError, AstunerError, StopIteration):
            return None

    @property
    def run_name(self) -> str:
        """Tells it from all others, as in math_agent-2025-12-01_09-30-00."""
        return f"{self.root.parent.name}-{self.root.name}"

    def check_is_there(self) -> None:
        """Raises BackboneError when the folder is gone: writing would begin another one there."""
        if not self.root.is_dir():
            raise BackboneError(
                f"the run directory {self.root} is gone: it was deleted or moved while the run was "
                "at work, and what comes after it has no place. Where it was moved, move it back "
                "and go on with --resume; else start a new run"
            )

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Around the run: keeps other processes out of this folder; a kill ends that too.

        Raises ConfigError when another one is at work here.
        """
        with naming_the_file(self._lock_file):
            file = self._lock_file.open("ab", buffering=0)
        with file:
            try:
                _lock_for_good(file)
            except BlockingIOError as error:
                raise ConfigError(
                    f"another process works in {self.root}; wait for it or end it, then resume"
                ) from error
            with naming_the_file(self._lock_file):
                file.truncate(0)
                file.write(f"{socket.gethostname()} {os.getpid()}".encode())
            try:
                yield
            finally:
                file.truncate(0)

    def worker(self) -> str | None:
        """Who is at work here, in words; None where nobody is.

        A lock tells of this machine, and of others where the file system carries it. Where it may
        not, a run that was begun elsewhere and did not end in order counts as at work for a day.
        """
        try:
            with open_regular(self._lock_file) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                host, _, pid = file.read(1000).decode(errors="replace").partition(" ")
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return "it is at work"
        except OSError as error:
            return f"whether it is at work is not known: {error.strerror}"
        if not host or host == socket.gethostname():
            return None
        is_quiet = time.time() - self.last_written() > _QUIET_SECONDS
        return None if is_quiet else f"process {pid} of {host} may be at work on it"

    def last_written(self) -> float:
        """When the run wrote a line last, in seconds since 1970; 0 where it has no files.

        Checkpoints do not count, since they may have been pruned later.
        """
        times = [0.0]
        for path in (*self.root.glob("[!.]*"), *self.episodes_dir.glob("*")):
            with suppress(FileNotFoundError):
                times += [path.stat().st_mtime] if path.is_file() else []
        return max(times)

    def set_aside(self, *, after_step: int, is_logged: bool) -> Path | None:
        """Move what belongs to later steps away, so that they can be done again.

        Unless the step `is_logged`, its metrics and its validation are moved too.

        Returns where it lies now; None when there was nothing.
        """
        away = self.set_aside_dir / datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
        validated = after_step if is_logged else after_step - 1
        later = [path for path in self.step_files() if _step_in(path) > after_step]
        later += [path for path in self.training_files() if _step_in(path) > after_step]
        later += [p for p in self.episodes_dir.glob("validation_*") if _step_in(p) > validated]
        later += [folder for step, folder in self.checkpoints().items() if step > after_step]
        lines = list(read_json_lines(self.metrics_file)) if self.metrics_file.exists() else []
        kept = [line for line in lines if line["step"] <= validated]
        if not later and len(kept) == len(lines):
            return None
        for path in later:
            target = away / path.relative_to(self.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        if len(kept) < len(lines):
            away.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.metrics_file, away / self.metrics_file.name)
            rewritten = self.metrics_file.with_suffix(".partial")
            rewritten.unlink(missing_ok=True)
            append_json_lines(rewritten, kept)
            rewritten.replace(self.metrics_file)
        return away

    def set_lines_aside(self, path: Path, is_kept: Callable[[Mapping[str, Any]], bool]) -> int:
        """Move the lines of a jsonl file that are not kept away; returns how many these are.

        A kill leaves the file as it was or as it is to be. Raises AstunerError where the file
        system refuses.
        """
        kept, others = [], []
        for line in read_json_lines(path):
            (kept if is_kept(line) else others).append(line)
        if others:
            away = self.set_aside_dir / datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f")
            append_json_lines(away / path.relative_to(self.root), others)
            rewritten = path.with_suffix(".partial")
            rewritten.unlink(missing_ok=True)
            append_json_lines(rewritten, kept)
            with naming_the_file(path):
                rewritten.replace(path)
        return len(others)

    @property
    def config_file(self) -> Path:
        return self.root / "config.yaml"

    def new_config_file(self) -> Path:
        """Where this start writes its configuration: those of earlier starts stay."""
        return _free(self.config_file)

    def rubrics_files(self) -> list[Path]:
        """Of drafted rubrics."""
        return sorted(self.root.glob("auto_grader*.json"))

    def new_rubrics_file(self) -> Path:
        """Where this start writes what it drafts: those of earlier starts stay."""
        return _free(self.root / "auto_grader.json")

    @property
    def _lock_file(self) -> Path:
        return self.root / ".lock"

    @property
    def _started_file(self) -> Path:
        return self.root / "started.json"

    @property
    def log_file(self) -> Path:
        return self.root / "run.log"

    @property
    def metrics_file(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def warm_start_file(self) -> Path:
        return self.root / "warm_start.jsonl"

    @property
    def warm_start_dir(self) -> Path:
        """The checkpoint that a warm start ended with; complete as soon as it is there."""
        return self.checkpoints_dir / "warm_start"

    @property
    def events_file(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def vocabulary_file(self) -> Path:
        return self.root / "vocabulary.json"

    @property
    def episodes_dir(self) -> Path:
        return self.root / "episodes"

    @property
    def training_dir(self) -> Path:
        return self.root / "training"

    @property
    def set_aside_dir(self) -> Path:
        return self.root / "set_aside"

    @property
    def checkpoints_dir(self) -> Path:
        return self.root / "checkpoints"

    def episodes_file(self, step: int, kind: EpisodeKind) -> Path:
        return self.episodes_dir / f"{_FILE_PREFIX[kind]}_{step:06d}.jsonl"

    def step_files(self) -> list[Path]:
        """The episodes of training, the earliest step first."""
        return sorted(self.episodes_dir.glob("step_*.jsonl"), key=_step_in)

    def training_file(self, step: int) -> Path:
        return self.training_dir / f"step_{step:06d}.jsonl"

    def training_files(self) -> list[Path]:
        """What was trained, the earliest step first."""
        return sorted(self.training_dir.glob("step_*.jsonl"), key=_step_in)

    def checkpoint_dir(self, step: int) -> Path:
        return self.checkpoints_dir / f"step_{step}"

    def checkpoints(self) -> dict[int, Path]:
        """The complete checkpoints by their step, the latest first."""
        found = ((_step_of(folder), folder) for folder in self.checkpoints_dir.glob("step_*"))
        steps = sorted(((s, f) for s, f in found if s is not None), reverse=True)
        return dict(steps)

    @property
    def can_be_resumed(self) -> bool:
        """Whether there is a checkpoint of a step, or of a warm start, to go on from."""
        return self.warm_start_dir.is_dir() or bool(self.checkpoints())

    def latest_checkpoint(self) -> Path | None:
        """The complete checkpoint of the highest step; None when there is none."""
        return next(iter(self.checkpoints().values()), None)

    def best_checkpoint(self) -> Path | None:
        """Where the link `best` leads; None where there is none."""
        link = self.checkpoints_dir / BEST
        folder = _pointed_to(link)
        return folder if folder is not None and _step_of(folder) is not None else None

    def point_best_to(self, checkpoint: Path) -> None:
        """Make the link `best` lead there; where it cannot be written, the run goes on without."""
        link = self.checkpoints_dir / BEST
        try:
            _point(link, to=checkpoint)
        except OSError as error:
            logger.warning(
                "the link %s does not lead to %s, the best checkpoint: %s; all checkpoints are "
                "kept as they should be",
                *(link, checkpoint.name, error.strerror),
            )


def append_json_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one object as one line; see `append_json_lines`."""
    append_json_lines(path, [record])


def append_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append each object as one line; see `json_line` and `append_lines`."""
    append_lines(path, [json_line(record, where=str(path)) for record in records])


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Append whole lines and wait until the disk has them.

    A kill leaves at most the last line torn; what a kill tore earlier is cut off first. Raises
    AstunerError where the file system refuses. One process at a time may write a file.
    """
    data = b"".join(lines)
    with naming_the_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            _cut_torn_line(path, file.tell())
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def json_line(record: Mapping[str, Any], *, where: str) -> bytes:
    """The object as one line of UTF-8, its end included.

    NaN and infinities, which JSON does not know, become null and are named in a warning, as what
    stands `where`. Raises TypeError for values that are no JSON.
    """
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    except ValueError:
        lost: list[str] = []
        text = json.dumps(_without_non_finite(record, "", lost), ensure_ascii=False)
        logger.warning("not a finite number, written as null: file=%s keys=%s", where, lost[:10])
    # A lone surrogate has no UTF-8 form; its escape \udcXX is the same text in JSON.
    return text.encode("utf-8", "backslashreplace") + b"\n"


@contextmanager
def naming_the_file(path: Path, *, then: str = _START_AGAIN) -> Iterator[None]:
    """Around writing `path`: what the file system refuses becomes an AstunerError.

    `then` is what to do once the cause is mended.
    """
    try:
        yield
    except OSError as error:
        raise AstunerError(
            f"writing {path}: {told(error, folder=path.absolute().parent)}. What was written "
            f"before stays. To go on, {advice(error.errno)}, then {then}"
        ) from error


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a jsonl file, in order; a torn last line is left out.

    Safe while another process appends. Raises AstunerError with file and line for a line before
    the last that is not a JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            yield _decode(line, path=path, number=number)


def _free(path: Path) -> Path:
    """The path, or the first with a number behind its name that is not there."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return free


def _new_folder(parent: Path, name: str) -> Path:
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _point(link: Path, *, to: Path) -> None:
    """Make `link` lead to a folder beside it, whatever it led to before."""
    temporary = link.with_name(f".{link.name}.{to.name}")
    temporary.unlink(missing_ok=True)
    try:
        try:
            temporary.symlink_to(to.name, target_is_directory=True)
        except (OSError, NotImplementedError):
            # Windows without the privilege, and some network file systems, have no symbolic links.
            temporary.write_text(f"{to.name}\n", encoding="utf-8")
        temporary.replace(link)
    finally:
        temporary.unlink(missing_ok=True)


def _pointed_to(link: Path) -> Path | None:
    """The folder that `_point` made the link lead to; None where it is gone."""
    name = link.read_text(encoding="utf-8").strip() if link.is_file() else None
    folder = link.parent / name if name else link.resolve()
    return folder if folder.is_dir() else None


def _lock_for_good(file: BinaryIO) -> None:
    """Raises BlockingIOError where another process works here.

    One that only asks whether somebody does, as `worker`, holds the lock for a moment.
    """
    for seconds in _LOOKER_SECONDS:
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(seconds)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Around what one process may do at a time in this folder; the others wait."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _time_in(folder: Path) -> list[int]:
    """Sorts folders by the time in their name; a suffix counts those of the same second."""
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def _step_in(episodes_file: Path) -> int:
    return int(episodes_file.stem.rpartition("_")[2])


def _step_of(folder: Path) -> int | None:
    match = re.fullmatch(r"step_(\d+)", folder.name)
    return int(match[1]) if match and folder.is_dir() else None


def _without_non_finite(value: Any, key: str, lost: list[str]) -> Any:
    """A copy with None for NaN and infinities; their dotted keys are added to `lost`."""
    if isinstance(value, Mapping):
        return {k: _without_non_finite(v, f"{key}.{k}".lstrip("."), lost) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(v, f"{key}[{i}]", lost) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        lost.append(key)
        return None
    return value


def _decode(line: bytes, *, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise AstunerError(
            f"{path}:{number}: the line is not JSON: {error}; the file was changed by hand or "
            f"written by two processes"
        ) from error
    if not isinstance(record, dict):
        raise AstunerError(f"{path}:{number}: expected an object, found {type(record).__name__}")
    return record


def _cut_torn_line(path: Path, size: int) -> None:
    """Cut the file after its last line end."""
    with path.open("rb+") as file:
        end = _end_of_last_line(file, size)
        if end < size:
            logger.warning("torn last line cut off: file=%s bytes=%d", path, size - end)
            file.truncate(end)


def _end_of_last_line(file: BinaryIO, size: int) -> int:
    """The offset behind the last line end; 0 when there is none."""
    end = size
    block = 1  # Almost always the last byte is the line end.
    while end:
        start = max(0, end - block)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end, block = start, 65536
    return 0
