"""What sandboxed code gets to see of this system: its programs, and the Python that runs here."""

import sys
from pathlib import Path

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
FROM_ETC = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/ssl/certs")


def interpreter_folders() -> tuple[Path, ...]:
    """Folders that Python needs to read, those of a virtual environment and of its base."""
    program = Path(sys.executable)
    found = [Path(sys.prefix), Path(sys.base_prefix), program.resolve().parent.parent]
    return tuple(dict.fromkeys(folder for folder in found if folder != Path("/")))


def plain_environment(*, home: str, temporary: str) -> dict[str, str]:
    """All of the environment that is not asked for; nothing comes from this process."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": temporary,
        "LANG": "C.UTF-8",
        "USER": "sandbox",
        # A thread for each core of the machine would use up the processes and the memory.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
