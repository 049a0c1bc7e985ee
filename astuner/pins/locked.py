"""Installs what a lock names: these packages and no others, each file checked by its SHA-256.

Needs nothing but Python, since it is what fills a new environment:

    python astuner/pins/locked.py ENVIRONMENT LOCK
"""

import subprocess
import sys
from pathlib import Path

BUILD_LOCK = Path(__file__).with_name("build.txt")
"""What builds the few packages that come as source."""
CUDA_LOCK = Path(__file__).with_name("cuda.txt")
"""What the CUDA build of torch needs beside it; locks that hold with either build leave it out."""

_LACKS_CUDA = """
import re, sys
from importlib.metadata import PackageNotFoundError, distribution

def has(name):
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None

torch = has("torch")
names = [re.match(r"[\\w-]+", line)[0] for line in (torch and torch.requires) or []]
sys.exit(not any(re.match("nvidia-|cuda-", name) and not has(name) for name in names))
"""
"""Ends with 0 in an environment whose torch asks for CUDA and does not find it."""


def install_locked(environment: Path, lock: Path, *, is_quiet: bool) -> None:
    """Install all of `lock` into the virtual environment.

    Raises CalledProcessError where pip fails, as for a file of another hash; pip has said why.
    """
    # pip would fill the folders in which it builds without looking at hashes.
    flags = ["--require-hashes", "--no-build-isolation", "--requirement"]
    for file in (BUILD_LOCK, lock):
        pip_install(environment, [*flags, str(file)], is_quiet=is_quiet)
    lacks_cuda = [_python(environment), "-c", _LACKS_CUDA]
    if subprocess.run(lacks_cuda, check=False).returncode == 0:
        pip_install(environment, [*flags, str(CUDA_LOCK)], is_quiet=is_quiet)


def pip_install(environment: Path, arguments: list[str], *, is_quiet: bool) -> None:
    """Install these and nothing that they need. Raises CalledProcessError where pip fails."""
    flags = ["--disable-pip-version-check", "--no-deps", *(["--quiet"] if is_quiet else [])]
    command = [_python(environment), "-m", "pip", "install", *flags, *arguments]
    subprocess.run(command, check=True)


def _python(environment: Path) -> str:
    return str(environment / "bin" / "python")


if __name__ == "__main__":
    try:
        install_locked(Path(sys.argv[1]), Path(sys.argv[2]), is_quiet=True)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
