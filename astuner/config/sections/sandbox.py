"""`astuner.sandbox`: where code runs that a model wrote, and what it may use."""

from typing import Literal, get_args

from pydantic import PositiveFloat, PositiveInt

from astuner.config.section import Section, UsedBy, setting

SandboxKind = Literal["bubblewrap", "landlock", "none"]
SANDBOX_KINDS: tuple[SandboxKind, ...] = get_args(SandboxKind)
"""The strongest first."""


class SandboxSettings(Section):
    kind: Literal["auto", "bubblewrap", "landlock", "none"] = setting(
        UsedBy.ALL,
        "auto: the strongest that this system permits; docs/sandbox.md tells them apart.",
    )
    require: SandboxKind = setting(
        UsedBy.ALL,
        "The weakest kind that will do; where there is none as strong, code is refused.",
    )
    timeout_seconds: PositiveFloat = setting(UsedBy.ALL, "Of one run.")
    memory_mb: PositiveInt = setting(
        UsedBy.ALL, "Of all its processes, and of the address space of each."
    )
    cpu_seconds: PositiveFloat = setting(UsedBy.ALL, "Of all its processes.")
    num_processes: PositiveInt = setting(UsedBy.ALL, "At the same time; threads count.")
    output_kb: PositiveInt = setting(UsedBy.ALL, "Of each of stdout and stderr; more is cut.")
    disk_mb: PositiveInt = setting(
        UsedBy.ALL, "Of its scratch folder, and of a single file anywhere."
    )

    def permitted_kinds(self) -> tuple[SandboxKind, ...]:
        """Those that are as strong as is required, the strongest first."""
        return SANDBOX_KINDS[: SANDBOX_KINDS.index(self.require) + 1]
