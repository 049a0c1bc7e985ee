"""The pins of the clustered backbones: whether they are installed here, and how that is done.

verl and Trinity-RFT need versions of transformers that exclude each other, so each has a virtual
environment of its own. The exact versions of all packages stand in the lock files beside this.
"""

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from astuner.errors import BackboneError, ConfigError

_LOCKS = Path(__file__).parent
_AGENTS = ("agentscope>=1.0.19,<2", "mcp<2", "sqlalchemy[asyncio]", "tqdm", "math-verify>=0.8")
_ALWAYS = (*_AGENTS, "openai>=2", "gguf>=0.17", "setuptools", "wheel")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """What a clustered backbone is installed from."""

    package: str
    """The engine's distribution."""
    version: str
    """The one release that the backbone was made for."""
    gpu: tuple[str, ...] | None
    """Requirements with an inference engine for GPUs. None where the packages' own demands
    contradict each other, so that the lock is installed as it stands."""
    cpu: tuple[str, ...]


PINS: Mapping[str, Pins] = {
    "verl": Pins(
        package="verl",
        version="0.9.1",
        gpu=("verl[vllm,verl-core]==0.9.1", *_ALWAYS),
        cpu=("torch==2.13.0", "verl[verl-core]==0.9.1", *_ALWAYS),
    ),
    "trinity": Pins(
        package="trinity-rft",
        version="0.6.0",
        gpu=None,  # verl 0.8 asks for numpy 1, vLLM for numpy 2
        # verl 0.8 takes its functions without flash-attn from a module that needs einops.
        cpu=("torch==2.13.0", "trinity-rft==0.6.0", "verl==0.8.0", "greenlet", "einops", *_ALWAYS),
    ),
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
    pins = PINS[backbone]
    folder = path or default_folder(backbone)
    if folder.exists() and not (folder / "pyvenv.cfg").is_file():
        raise ConfigError(
            f"{folder} exists and is no virtual environment; move it away, or give --path"
        )
    kind = "cpu" if is_cpu else "gpu"
    lock = _LOCKS / f"{backbone}-{kind}.txt"
    say(f"making {folder} for the backbone {backbone} ({kind}); this takes minutes")
    _run([sys.executable, "-m", "venv", str(folder)], "making the virtual environment")
    # On a terminal pip shows what it downloads; in a file its list of packages is no use.
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", *quiet]
    locked = [*pip, "--constraint", str(lock)]
    what = f"installing {pins.package} {pins.version}"
    requirements = pins.cpu if is_cpu else pins.gpu
    if requirements is None:
        _run([*pip, "--no-deps", "--requirement", str(lock)], what)
        locked += ["--no-deps"]
    else:
        _run([*locked, *requirements], what)
    _run([*locked, "--no-build-isolation", *_this_astuner()], "installing astuner")
    say(f"done. Start with: {folder}/bin/astuner --conf FILE --backbone={backbone} --with-ray")
    return folder


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


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        raise BackboneError(
            f"{what} failed with code {done.returncode}; the lines above say why. "
            f"The command was: {' '.join(command)}"
        )
