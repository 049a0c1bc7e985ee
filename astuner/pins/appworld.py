"""The environment of AppWorld, which cannot be that of astuner: how it is made and where it is."""

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from astuner.errors import ConfigError
from astuner.pins.install import LOCKS, fill_venv, naming

DEFAULT_FOLDER = Path(".venv-appworld")
PYTHON_NAME = "APPWORLD_PYTHON"
"""Environment variable that names the interpreter."""

_NEXT = """\
done. AppWorld's tasks and databases are not part of its package. By its terms nobody may pass them
on unpacked: keep them, and what agents do in them, out of what you publish. To have them served:
  {folder}/bin/appworld download data --root FOLDER
  APPWORLD_ROOT=FOLDER {python_name}={folder}/bin/python astuner env serve appworld"""


def make_appworld_venv(*, path: Path | None, say: Callable[[str], None]) -> Path:
    """Make a virtual environment with AppWorld, its apps unpacked; returns its folder.

    Raises ConfigError for a folder that is something else, BackboneError where a step fails.
    """
    folder = path or DEFAULT_FOLDER
    say(f"making {folder} for AppWorld; this takes a minute and 230 MB")
    fill_venv(folder, LOCKS / "appworld.txt")
    command = [str(folder / "bin" / "python"), "-m", "appworld.cli", "install"]
    # It unpacks tests of its own too, by default into the home folder.
    environment = {**os.environ, "APPWORLD_CACHE": str((folder / "appworld-cache").absolute())}
    with naming("unpacking the apps of AppWorld in", folder):
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    say(_NEXT.format(folder=folder, python_name=PYTHON_NAME))
    return folder


def find_python(explicit: Path | None, *, environ: Mapping[str, str] = os.environ) -> Path:
    """The interpreter that has AppWorld: the one given, else APPWORLD_PYTHON, else that of
    .venv-appworld here. Raises ConfigError where there is none."""
    named = explicit or environ.get(PYTHON_NAME)
    python = Path(named) if named else DEFAULT_FOLDER / "bin" / "python"
    if os.access(python, os.X_OK) and python.is_file():
        return python.absolute()
    raise ConfigError(
        f"environment appworld: there is no interpreter {python}. AppWorld needs an environment of "
        "its own: make it here by `astuner setup appworld`, or name its interpreter by --python or "
        f"by {PYTHON_NAME}"
    )
