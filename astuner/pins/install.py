"""The pins of the clustered backbones: whether they are installed here, and how that is done.

verl and Trinity-RFT need versions of transformers that exclude each other, so each has a virtual
environment of its own. The exact versions of all packages, with the SHA-256 of their files, stand
in the lock files beside this.
"""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from astuner.errors import BackboneError, ConfigError
from astuner.pins.locked import install_locked, pip_install

LOCKS = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What a clustered backbone is installed from."""

    package: str
    """The engine's distribution."""
    version: str
    """The one release that the backbone was made for."""


PINS: Mapping[str, Pins] = {
    "verl": Pins(package="verl", version="0.9.1"),
    "trinity": Pins(package="trinity-rft", version="0.6.0"),
}
"""By the name of the backbone."""


def check_installed(backbone: str) -> None:
    """Raise ConfigError unless the engine of the backbone is installed here in its version."""
    pins = PINS[backbone]
    try:
        found = importlib.metadata.version(pins.package)
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found == pins.version:
        return
    here = "is not installed" if found is None else f"is installed as {found}"
    raise ConfigError(
        f"backbone {backbone}: {pins.package} {pins.version} is needed and {here} in "
        f"{sys.prefix}; make its environment by `astuner setup {backbone}`, then start with "
        f"{default_folder(backbone)}/bin/astuner"
    )


def has_flash_attention() -> bool:
    """Whether the package flash-attn is here. No lock names it, since it is built on the spot."""
    return importlib.util.find_spec("flash_attn") is not None


def default_folder(backbone: str) -> Path:
    return Path(f".venv-{backbone}")


def make_venv(
    backbone: str, *, path: Path | None, is_cpu: bool, say: Callable[[str], None]
) -> Path:
    """Make a virtual environment with the engine and this astuner; returns its folder.

    `path` is by default `default_folder`. Raises ConfigError for a folder that is something else,
    BackboneError where the installer fails.
    """
    folder = path or default_folder(backbone)
    kind = "cpu" if is_cpu else "gpu"
    say(f"making {folder} for the backbone {backbone} ({kind}); this takes minutes")
    fill_venv(folder, LOCKS / f"{backbone}-{kind}.txt")
    with naming("installing astuner into", folder):
        pip_install(folder, ["--no-build-isolation", *_this_astuner()], is_quiet=_is_quiet())
    say(f"done. Start with: {folder}/bin/astuner --conf FILE --backbone={backbone} --with-ray")
    return folder


def fill_venv(folder: Path, lock: Path) -> None:
    """Make the virtual environment, or go on with one that is there, and install the lock.

    Raises ConfigError for a folder that is something else, BackboneError where the installer fails.
    """
    if folder.exists() and not (folder / "pyvenv.cfg").is_file():
        raise ConfigError(
            f"{folder} exists and is no virtual environment; move it away, or give --path"
        )
    with naming("making", folder):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    with naming("installing the packages of", lock):
        install_locked(folder, lock, is_quiet=_is_quiet())


def _is_quiet() -> bool:
    """On a terminal pip shows what it downloads; in a file its list of packages is no use."""
    return not sys.stdout.isatty()


def _this_astuner() -> list[str]:
    """What pip installs this very astuner from: its folder where it came from one."""
    try:
        text = importlib.metadata.distribution("astuner").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        text = None
    origin = json.loads(text) if text else {}
    if "dir_info" in origin and origin["url"].startswith("file://"):
        folder = origin["url"].removeprefix("file://")
        return ["--editable", folder] if origin["dir_info"].get("editable") else [folder]
    return [f"astuner=={importlib.metadata.version('astuner')}"]


@contextmanager
def naming(what: str, path: Path) -> Iterator[None]:
    """Raise BackboneError, in these words, where a command in it fails."""
    try:
        yield
    except subprocess.CalledProcessError as error:
        raise BackboneError(
            f"{what} {path} failed with code {error.returncode}; the lines above say why. "
            f"The command was: {' '.join(error.cmd)}"
        ) from error
