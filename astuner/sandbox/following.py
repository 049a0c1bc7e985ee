"""Follows one run to its end: keeps its output within bounds and ends it at its limits.

Runs in a thread of its own with plain system calls, so it needs no event loop, no signal handler
and no main thread.
"""

import os
import select
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from astuner.errors import SandboxError
from astuner.sandbox.limits import Limits
from astuner.sandbox.usage import exact_memory_bytes, processes_below, usage_of

EndedBy = Literal["timeout", "memory", "cpu", "output", "processes", "stopped"]

_LOOK_SECONDS = 0.1
_CHUNK_BYTES = 64 * 1024
_DISCARDED = 64
"""So many times the output that is kept is read; what writes still more is ended, since reading it
for nothing costs as much as writing it."""
_OWN_PROCESSES = 2
"""Of the sandbox itself, at most."""
_CPU_SIGNAL_CODE = 128 + 24
"""Exit code of a process that SIGXCPU ended."""


class Confined(Protocol):
    """A run that has started."""

    process: "subprocess.Popen[bytes]"
    """Its first process, with pipes as stdout and stderr."""
    top_pid: int
    """All its processes are this one or below it."""

    def end(self) -> None:
        """Kill all of it and return when nothing is left; may be called again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """How a run ended, and what it wrote."""

    exit_code: int | None
    stdout: bytes
    stderr: bytes
    is_cut: bool
    ended_by: EndedBy | None
    seconds: float


@dataclass(slots=True)
class _Stream:
    limit: int
    kept: bytearray = field(default_factory=bytearray)
    num_bytes: int = 0

    def take(self, data: bytes) -> None:
        self.num_bytes += len(data)
        self.kept += data[: max(0, self.limit - len(self.kept))]


def follow(confined: Confined, limits: Limits, stop_fd: int) -> Followed:
    """Wait for the end of the first process, or for a limit, or until stop_fd can be read; nothing
    of the run is left afterwards."""
    begun = time.monotonic()
    process = confined.process
    assert process.stdout is not None
    assert process.stderr is not None
    streams = {
        process.stdout.fileno(): _Stream(limits.output_bytes),
        process.stderr.fileno(): _Stream(limits.output_bytes),
    }
    try:
        ended_by = _watch(process.pid, streams, _checks(confined, limits), begun, limits, stop_fd)
        exit_code = process.wait() if ended_by is None else None
    finally:
        confined.end()
    _drain(streams)
    stdout, stderr = streams.values()
    if exit_code == _CPU_SIGNAL_CODE:
        exit_code, ended_by = None, "cpu"
    return Followed(
        exit_code=128 - exit_code if exit_code is not None and exit_code < 0 else exit_code,
        stdout=bytes(stdout.kept),
        stderr=bytes(stderr.kept),
        is_cut=any(s.num_bytes > s.limit for s in streams.values()),
        ended_by=ended_by,
        seconds=time.monotonic() - begun,
    )


def wait_readable(fd: int, seconds: float, what: str) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(seconds * 1000):
        raise SandboxError(f"sandbox: {what} took more than {seconds} seconds; is the system busy?")


def _watch(
    pid: int,
    streams: dict[int, _Stream],
    look: Callable[[], EndedBy | None],
    begun: float,
    limits: Limits,
    stop_fd: int,
) -> EndedBy | None:
    poll = select.poll()
    exited_fd = os.pidfd_open(pid)
    try:
        for fd in (*streams, exited_fd, stop_fd):
            poll.register(fd, select.POLLIN)
        for fd in streams:
            os.set_blocking(fd, False)
        next_look = begun + _LOOK_SECONDS
        while True:
            now = time.monotonic()
            if now - begun >= limits.timeout_seconds:
                return "timeout"
            if now >= next_look:
                if (reason := look()) is not None:
                    return reason
                next_look = time.monotonic() + _LOOK_SECONDS
            wait_seconds = min(next_look, begun + limits.timeout_seconds) - time.monotonic()
            ready = {fd for fd, _ in poll.poll(max(0, int(wait_seconds * 1000) + 1))}
            if stop_fd in ready:
                return "stopped"
            for fd in ready & streams.keys():
                if not _read(fd, streams[fd]):
                    poll.unregister(fd)  # closed; the command may go on
                if streams[fd].num_bytes > _DISCARDED * limits.output_bytes:
                    return "output"
            if exited_fd in ready:
                return None
    finally:
        os.close(exited_fd)


def _checks(confined: Confined, limits: Limits) -> Callable[[], EndedBy | None]:
    def look() -> EndedBy | None:
        pids = list(processes_below(confined.top_pid))
        if len(pids) > limits.num_processes + _OWN_PROCESSES:
            return "processes"
        usage = usage_of(pids)
        if usage.cpu_seconds > limits.cpu_seconds:
            return "cpu"
        is_near = usage.memory_bytes > limits.memory_bytes
        if is_near and exact_memory_bytes(pids) > limits.memory_bytes:
            return "memory"
        return None

    return look


def _read(fd: int, stream: _Stream) -> bool:
    """Whether there may be more."""
    try:
        data = os.read(fd, _CHUNK_BYTES)
    except BlockingIOError:
        return True
    stream.take(data)
    return bool(data)


def _drain(streams: dict[int, _Stream]) -> None:
    """What the pipes still hold. A process that got away may hold them open, so no end is awaited,
    nor more taken than a pipe has room for."""
    for fd, stream in streams.items():
        end = stream.num_bytes + 1024 * 1024
        while stream.num_bytes < end:
            before = stream.num_bytes
            if not _read(fd, stream) or stream.num_bytes == before:
                break
