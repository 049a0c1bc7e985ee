"""Reads a task folder: task.toml, instruction.md, environment/, tests/test.sh, never solution/."""

import importlib.util
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from astuner.env_service.harbor.dockerfile import ImageRecipe, read_dockerfile
from astuner.env_service.harbor.layout import AgentFiles, check_tree, files_of
from astuner.env_service.harbor.needs import NeedsMore
from astuner.errors import TaskReadError

FOLDER_KEY = "harbor_folder"
"""Where the metadata of a `Task` name its folder."""
CONFIG_FILE = "task.toml"
_MAX_TEXT_BYTES = 1024 * 1024
_USES_NETWORK = re.compile(
    r"(?<![\w./-])(apt-get|apt|curl|wget|uvx|uv|npm|npx|conda|git clone|pip3? install)(?=\s|$)"
)
_AT_HOME = re.compile(r"localhost|127\.0\.0\.1")
_CANARY = re.compile(r"\A(?:\s*(?:<!--.*canary.*-->|#.*canary.*)\s*\n)+\s*", re.IGNORECASE)
"""Lines by which data sets are found again in training data; they are not part of the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HarborTask:
    """A task that the sandbox can give."""

    task_id: str
    """The folder's name."""
    instruction: str
    workdir: str
    files: AgentFiles
    environment: Mapping[str, str]
    """Variables of the agent's commands, and of the verifier's."""
    tests: Path
    verifier_environment: Mapping[str, str]
    verifier_seconds: float


class _TomlSection(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _EnvironmentTable(_TomlSection):
    """What a container would be given. Its memory and processors are those of the sandbox."""

    docker_image: str | None = None
    os: str = "linux"
    gpus: int | None = None
    tpu: dict[str, Any] | None = None
    mcp_servers: list[Any] = Field(default_factory=list)
    healthcheck: dict[str, Any] | None = None
    allowed_hosts: list[str] | None = None
    workdir: str | None = Field(default=None, pattern=r"^/[^$\x00]+$")
    env: dict[str, str] = Field(default_factory=dict)


class _Verifier(_TomlSection):
    timeout_sec: float = Field(default=600.0, gt=0, allow_inf_nan=False)
    env: dict[str, str] = Field(default_factory=dict)
    environment_mode: str | None = None
    environment: dict[str, Any] | None = None
    collect: list[Any] = Field(default_factory=list)


class _TaskFile(_TomlSection):
    environment: _EnvironmentTable = Field(default_factory=_EnvironmentTable)
    verifier: _Verifier = Field(default_factory=_Verifier)
    steps: list[Any] = Field(default_factory=list)


def is_task_folder(folder: Path) -> bool:
    """Whether it is meant as one: it has a task.toml, or what stands beside one."""
    names = (CONFIG_FILE, "instruction.md", "tests/test.sh")
    return any((folder / name).exists() for name in names)


def read_harbor_task(folder: Path) -> HarborTask:
    """The task of a folder.

    Raises TaskReadError for a folder that is not whole, NeedsMore for one that is and asks for
    what only a container has.
    """
    folder = folder.resolve()
    settings = _read_task_file(folder)
    _check_needs(settings, folder)
    instruction = _CANARY.sub("", _read_text(folder, "instruction.md")).strip()
    if not instruction:
        raise TaskReadError(f"{folder}/instruction.md says nothing; write what is to be done")
    script = _read_text(folder, "tests/test.sh")
    with open(folder / "tests/test.sh", "rb") as file:
        if file.readline().endswith(b"\r\n"):
            raise TaskReadError(
                f"{folder}/tests/test.sh has the line ends of Windows, which become part of every "
                "word; run sed -i 's/\\r$//' on it"
            )
    check_tree(folder / "tests")
    _check_script(script)
    recipe = _read_recipe(folder, settings.environment.workdir)
    return HarborTask(
        task_id=folder.name,
        instruction=instruction,
        workdir=recipe.workdir,
        files=files_of(recipe, folder / "environment"),
        environment={**recipe.environment, **settings.environment.env},
        tests=folder / "tests",
        verifier_environment=settings.verifier.env,
        verifier_seconds=settings.verifier.timeout_sec,
    )


def _read_task_file(folder: Path) -> _TaskFile:
    path = folder / CONFIG_FILE
    try:
        return _TaskFile.model_validate(tomllib.loads(_read_text(folder, CONFIG_FILE)))
    except tomllib.TOMLDecodeError as error:
        raise TaskReadError(f"{path} is not TOML: {error}; correct it") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise TaskReadError(
            f"{path}: {where}: {problem['msg']}; found {problem['input']!r:.80}; correct it"
        ) from error


def _read_text(folder: Path, name: str) -> str:
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder):
            raise TaskReadError(f"{path} leads out of its task's folder; put the file there itself")
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_TEXT_BYTES:
            raise TaskReadError(f"{path} is no file of up to {_MAX_TEXT_BYTES} bytes of text")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TaskReadError(
            f"{path} is missing; a task folder has task.toml, instruction.md and tests/test.sh"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TaskReadError(f"{path} cannot be read as text: {error}; correct it") from error


def _check_needs(settings: _TaskFile, folder: Path) -> None:
    world, verifier = settings.environment, settings.verifier
    needs = {
        f"the image {world.docker_image!r}": world.docker_image,
        f"the system {world.os}": world.os.lower() != "linux",
        "a GPU or TPU": world.gpus or world.tpu,
        "MCP servers": world.mcp_servers,
        "a service with a healthcheck": world.healthcheck,
        f"a network with {world.allowed_hosts}": world.allowed_hosts,
        "several steps": settings.steps,
        "the conversation before it, trajectory.json": (folder / "trajectory.json").exists(),
        "a container for its verifier": verifier.environment_mode == "separate"
        or verifier.environment
        or verifier.collect,
        "variables of this machine": any(
            "${" in value for value in (*world.env.values(), *verifier.env.values())
        ),
    }
    for need, is_needed in needs.items():
        if is_needed:
            raise NeedsMore(need)


def _check_script(script: str) -> None:
    """Raise NeedsMore where the verifier would fail here for want of a program, and so might write
    a reward of 0 for what was right."""
    lines = [line for line in script.splitlines() if not line.lstrip().startswith("#")]
    for line in lines:
        if (found := _USES_NETWORK.search(line)) and not _AT_HOME.search(line):
            raise NeedsMore(f"a network: tests/test.sh calls {found[1]}")
    calls_pytest = any(re.search(r"\bpytest\b", line) for line in lines)
    if calls_pytest and importlib.util.find_spec("pytest") is None:
        raise NeedsMore("pytest, which tests/test.sh calls: pip install pytest")


def _read_recipe(folder: Path, workdir: str | None) -> ImageRecipe:
    environment = folder / "environment"
    if not environment.is_dir():
        recipe = ImageRecipe()
    else:
        check_tree(environment)
        others = [p.name for p in environment.iterdir() if _is_for_builders(p.name)]
        if others:
            raise NeedsMore(f"what builds environment/{sorted(others)[0]}")
        has_file = (environment / "Dockerfile").exists()
        text = _read_text(folder, "environment/Dockerfile") if has_file else ""
        recipe = read_dockerfile(text)
    return recipe if workdir is None else recipe.starting_in(workdir)


def _is_for_builders(name: str) -> bool:
    return name == ".dockerignore" or re.search(r"compose.*\.ya?ml$|\.def$", name) is not None
