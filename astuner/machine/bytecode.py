"""Keeps Python from leaving `__pycache__` among the user's files, which are no place for it.

Installed packages are cached as ever; compiling a workflow anew takes milliseconds.
"""

import os
import sys
from collections.abc import Iterable
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]

_folders: set[Path] = set()
"""Those that are kept clean; changed by `leave_no_bytecode` only."""


class UncachedLoader(SourceFileLoader):
    """Takes bytecode that is there already, and writes none."""

    def set_data(self, path: str, data: bytes, *, _mode: int = 0o666) -> None:
        """Nothing: this is where the import system would write the cache."""


def leave_no_bytecode(folders: Iterable[Path]) -> None:
    """From now on no module below these folders leaves its bytecode there.

    A PYTHONPYCACHEPREFIX leads it elsewhere anyway, and is obeyed.
    """
    new = {Path(os.path.abspath(folder)) for folder in folders} - _folders
    if sys.pycache_prefix is not None or not new:
        return
    _folders.update(new)
    if _find_uncached not in sys.path_hooks:
        sys.path_hooks.insert(0, _find_uncached)
    for entry in [entry for entry in sys.path_importer_cache if _is_kept_clean(entry)]:
        del sys.path_importer_cache[entry]


def _find_uncached(entry: str) -> FileFinder:
    """A path hook, as importlib.machinery describes them."""
    if not _is_kept_clean(entry):
        raise ImportError(f"{entry} is cached as usual")
    return FileFinder(
        entry,
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (UncachedLoader, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )


def _is_kept_clean(entry: str) -> bool:
    """A virtual environment may lie in the working folder, and a checkout of this package too."""
    path = Path(os.path.abspath(entry))
    is_installed = "site-packages" in path.parts or path.is_relative_to(_PACKAGE)
    is_folder = os.path.isdir(path)
    return is_folder and not is_installed and any(map(path.is_relative_to, _folders))
