"""The user's code on its way to other machines: what is copied there, and what is too big.

Owns what is copied, not how: Ray packs and unpacks it, and `WorkerRun` looks for the workflow below
each worker's own current directory. On a single machine nothing is copied, so that a workflow can
write beside its code.
"""

# Ray is installed in the virtual environments of verl and Trinity only:
# pyright: reportMissingImports=false

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from astuner.errors import ConfigError

EXCLUDES = (
    ".git",
    ".venv*",
    "venv",
    "__pycache__",
    "node_modules",
    "launcher_record",
    "models",
    "checkpoints",
    "saved_checkpoints",
    "*.safetensors",
    "*.parquet",
)
"""Patterns of .gitignore's kind that are never copied; a folder's own .gitignore counts as well."""
MAX_BYTES = 100 << 20
"""Ray refuses more than 512 MiB, after packing all of it; code is much smaller."""
_NUM_NAMED = 5


def with_user_files(
    runtime_env: Mapping[str, Any], *, folder: Path, num_nodes: int
) -> dict[str, Any]:
    """The runtime environment, with `folder` to be copied to each worker of several machines.

    One that names a working directory already, as that of a Ray job does, stays as it is. Raises
    ConfigError for a folder that is too big to copy.
    """
    if num_nodes <= 1 or runtime_env.get("working_dir", "a job's") is not None:
        return dict(runtime_env)
    check_size(copied_files(folder), folder=folder)
    return {**runtime_env, "working_dir": str(folder), "excludes": list(EXCLUDES)}


def copied_files(folder: Path) -> dict[Path, int]:
    """The files that Ray would copy, with their sizes in bytes."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    sizes: dict[Path, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path] = path.stat().st_size

    patterns = [*get_runtime_env_default_excludes(), *EXCLUDES]
    _dir_travel(folder, [_get_excludes(folder, patterns)], note, include_gitignore=True)
    return sizes


def check_size(sizes: Mapping[Path, int], *, folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Raise ConfigError, with the largest files, when they are too much to copy. Pure."""
    total = sum(sizes.values())
    if total <= max_bytes:
        return
    largest = sorted(sizes, key=lambda path: (-sizes[path], path))[:_NUM_NAMED]
    named = ", ".join(f"{path.relative_to(folder)} ({_mib(sizes[path])})" for path in largest)
    raise ConfigError(
        f"copying {folder} to the other machines: its {len(sizes)} files have {_mib(total)}, more "
        f"than {_mib(max_bytes)}; the largest are {named}. Start astuner in the folder that holds "
        "only your code, or name what the workflow does not need in its .gitignore or .rayignore"
    )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"
