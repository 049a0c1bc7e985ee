"""What one run may use."""

import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from astuner.config.sections.sandbox import SandboxSettings

MEGABYTE = 1024 * 1024
OPEN_FILES = 256
"""Of one process. What the kernel keeps for a socket, up to a megabyte, is in no one's memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one run, all its processes together where nothing else is said."""

    timeout_seconds: float
    memory_bytes: int
    """Also of the address space of each process."""
    cpu_seconds: float
    num_processes: int
    """Threads count as processes."""
    output_bytes: int
    """Kept of each of stdout and stderr."""
    disk_bytes: int
    """Of the scratch folder, and of a single file anywhere."""

    @classmethod
    def of(cls, settings: SandboxSettings) -> Self:
        return cls(
            timeout_seconds=settings.timeout_seconds,
            memory_bytes=settings.memory_mb * MEGABYTE,
            cpu_seconds=settings.cpu_seconds,
            num_processes=settings.num_processes,
            output_bytes=settings.output_kb * 1024,
            disk_bytes=settings.disk_mb * MEGABYTE,
        )

    def of_one_process(self) -> dict[str, tuple[int, int]]:
        """Soft and hard ones by their names in `resource`, none above what this process has."""
        cpu = max(1, round(self.cpu_seconds))
        asked = {
            "RLIMIT_AS": (self.memory_bytes, self.memory_bytes),
            "RLIMIT_CPU": (cpu, cpu + 1),
            "RLIMIT_NPROC": (self.num_processes, self.num_processes),
            "RLIMIT_FSIZE": (self.disk_bytes, self.disk_bytes),
            "RLIMIT_NOFILE": (OPEN_FILES, OPEN_FILES),
            "RLIMIT_CORE": (0, 0),
        }
        return {name: _within_ours(name, *limits) for name, limits in asked.items()}


def _within_ours(name: str, soft: int, hard: int) -> tuple[int, int]:
    most = resource.getrlimit(getattr(resource, name))[1]
    return (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))


def die_first(pid: int) -> None:
    """Let the kernel end this process and its later children before others when memory is short:
    not all that it keeps for them counts as theirs."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
