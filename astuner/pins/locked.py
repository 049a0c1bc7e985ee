"""Installs what a lock names: these packages and no others, each file checked by its SHA-256.

Needs nothing but Python, since it is what fills a new environment:

    python astuner/pins/locked.py ENVIRONMENT LOCK
"""

import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent
_BUILD_LOCK = _FOLDER / "build.txt"
"""What installs all others, and what builds the few that come as source."""
_CPU_LOCK = _FOLDER / "cpu.txt"
"""torch without CUDA, which not every index has."""
_CUDA_LOCK = _FOLDER / "cuda.txt"
"""What torch with CUDA needs beside it; locks that hold with either build leave it out."""
_NOT_THERE = "No matching distribution found"
"""What pip says of a build that no index has."""

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
    pip_install(environment, [*flags, str(_BUILD_LOCK)], is_quiet=is_quiet)
    if _torch(_CPU_LOCK).removesuffix("+cpu") == _torch(lock):
        _install_cpu_torch(environment, [*flags, str(_CPU_LOCK)])
    pip_install(environment, [*flags, str(lock)], is_quiet=is_quiet)
    if subprocess.run([_python(environment), "-c", _LACKS_CUDA], check=False).returncode == 0:
        pip_install(environment, [*flags, str(_CUDA_LOCK)], is_quiet=is_quiet)


def _torch(lock: Path) -> str:
    """The version of torch that a lock has; empty where it has none."""
    lines = lock.read_text(encoding="utf-8").splitlines()
    return next((line.split()[0] for line in lines if line.startswith("torch==")), "")


def _install_cpu_torch(environment: Path, arguments: list[str]) -> None:
    """By itself: from a folder of wheels, which has no hashes, pip would not take it before a build
    whose hash its index gives."""
    try:
        pip_install(environment, arguments, is_quiet=True, is_captured=True)
    except subprocess.CalledProcessError as error:
        if _NOT_THERE not in error.stderr:
            sys.stderr.write(error.stderr)
            raise


def pip_install(
    environment: Path, arguments: list[str], *, is_quiet: bool, is_captured: bool = False
) -> None:
    """Install these and nothing that they need.

    Raises CalledProcessError where pip fails, with what it printed if that `is_captured`.
    """
    flags = ["--disable-pip-version-check", "--no-deps", *(["--quiet"] if is_quiet else [])]
    command = [_python(environment), "-m", "pip", "install", *flags, *arguments]
    subprocess.run(command, check=True, capture_output=is_captured, text=True)


def _python(environment: Path) -> str:
    return str(environment / "bin" / "python")


if __name__ == "__main__":
    try:
        install_locked(Path(sys.argv[1]), Path(sys.argv[2]), is_quiet=True)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
