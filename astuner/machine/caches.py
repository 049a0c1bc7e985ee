"""Finds a place for what libraries keep beside a run: compiled kernels, downloads, temporary files.

They would take the user's home, which a container or a service account may not be able to write.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from astuner.machine.account import has_name

_USUAL = ("/tmp", "/var/tmp", "/usr/tmp")
"""Where Python looks before the current folder."""


def use_writable_caches(spare: Path) -> None:
    """Point libraries that are not imported yet away from folders that cannot be written.

    What the user set stays, and a home that can be written is used as ever. Caches go to the folder
    for temporary files, and these, where none but the current folder can be written, to `spare`.
    """
    if not _has_temporary_folder():
        folder = spare / ".tmp"
        with suppress(OSError):  # the run directory cannot be made there either, which is told
            folder.mkdir(parents=True, exist_ok=True)
            os.environ["TMPDIR"] = str(folder)
            tempfile.tempdir = None
    for name, value in _missing():
        os.environ.setdefault(name, value)


def _has_temporary_folder() -> bool:
    """Python takes the current folder where no other can be written."""
    try:
        found = tempfile.gettempdir()
    except FileNotFoundError:
        return False
    is_asked_for = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    return is_asked_for or found in _USUAL or not os.path.samefile(found, os.curdir)


def _missing() -> Iterator[tuple[str, str]]:
    """Environment variables that lead to a folder that can be written."""
    home = Path.home() if _has_home() else Path(os.sep)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    if not _can_write(caches):
        own = own_folder()
        if (caches / "huggingface").is_dir():  # models that were put there may still be read
            yield "HF_HOME", str(caches / "huggingface")
            yield "HF_DATASETS_CACHE", str(own / "datasets")
            yield "HF_MODULES_CACHE", str(own / "modules")
        yield "XDG_CACHE_HOME", str(own)
    if not _can_write(Path(os.environ.get("TRITON_HOME") or home) / ".triton"):
        yield "TRITON_CACHE_DIR", str(own_folder() / "triton")
    if not has_name():  # torch asks for it to name the folder
        yield "TORCHINDUCTOR_CACHE_DIR", str(own_folder() / "torchinductor")


def own_folder() -> Path:
    """Below the folder for temporary files; kernels of another user's would run as this one.

    Raises OSError where no such folder can be written.
    """
    folder = Path(tempfile.gettempdir(), f"astuner_{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    is_own = not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    return folder if is_own else Path(tempfile.mkdtemp(prefix="astuner_"))


def _can_write(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _has_home() -> bool:
    try:
        return Path.home().is_absolute()
    except RuntimeError:
        return False
