"""Reads of a Dockerfile what can be done without an image: folders, copied files, variables.

The rule: its base is a plain system (Debian, Ubuntu, or a Python that is not newer than this one),
and all that it does is WORKDIR, COPY without options, ENV and `RUN mkdir`. Whatever else it says
changes what the agent finds, so the task is refused by that line rather than tried without it.
Pure functions of the text.
"""

import json
import posixpath
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from astuner.env_service.harbor.needs import NeedsMore

DEFAULT_WORKDIR = "/app"
_BASES = ("debian", "ubuntu", "python")
_WITHOUT_EFFECT = ("ARG", "CMD", "EXPOSE", "LABEL")
"""An agent's commands come in place of CMD; what an ARG is used for is refused there."""
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeFolder:
    """A folder that is there from the beginning."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedFiles:
    """Files of environment/ that are there from the beginning."""

    sources: tuple[str, ...]
    """Relative to environment/; * ? and [] are patterns."""
    target: str
    """Absolute; a slash at the end where it is a folder whatever is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecipe:
    """What an agent finds, as far as files and variables go. Paths are those inside."""

    workdir: str = DEFAULT_WORKDIR
    steps: tuple[MadeFolder | CopiedFiles, ...] = (MadeFolder(path=DEFAULT_WORKDIR),)
    """In order."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def starting_in(self, workdir: str) -> Self:
        """The same with another working directory, which is made where it is missing."""
        path = posixpath.normpath(workdir)
        return replace(self, workdir=path, steps=(*self.steps, MadeFolder(path=path)))


def read_dockerfile(text: str) -> ImageRecipe:
    """What the file does. Raises NeedsMore, naming the line, for what needs an image."""
    workdir, is_begun = "", False
    steps: list[MadeFolder | CopiedFiles] = []
    environment: dict[str, str] = {}
    for name, value in _instructions(text):
        shown = f"{name} {value}"
        if name == "FROM":
            if is_begun:
                raise _refused(shown)
            _check_base(value)
            is_begun = True
        elif name == "WORKDIR":
            workdir = _place(value.strip("\"'"), workdir or "/", shown)
            steps.append(MadeFolder(path=workdir))
        elif name == "COPY":
            steps.append(_copied(value, workdir or "/", shown))
        elif name == "ENV":
            environment |= _variables(value, shown)
        elif name == "RUN":
            steps += _made(value, workdir or "/", shown)
        elif name not in _WITHOUT_EFFECT:
            raise _refused(shown)
    if not workdir:
        workdir = DEFAULT_WORKDIR
        steps.append(MadeFolder(path=workdir))
    return ImageRecipe(workdir=workdir, steps=tuple(steps), environment=environment)


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """Name and the rest of each; a line that ends with a backslash goes on in the next."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\[ \t]*\n", " ", "\n".join(lines)).splitlines():
        name, _, value = line.strip().partition(" ")
        if name:
            yield name.upper(), value.strip()


def _check_base(value: str) -> None:
    words = [word for word in value.split() if not word.startswith("--platform=")]
    image = words[0] if words else ""
    name, _, tag = image.partition("@")[0].partition(":")
    name = name.removeprefix("docker.io/").removeprefix("library/")
    if name not in _BASES:
        raise NeedsMore(f"the image {image!r}")
    version = re.match(r"(\d+)\.(\d+)", tag) if name == "python" else None
    if version and (int(version[1]), int(version[2])) > sys.version_info[:2]:
        here = ".".join(map(str, sys.version_info[:2]))
        raise NeedsMore(f"Python {version[0]}, and here is {here}")


def _copied(value: str, workdir: str, shown: str) -> CopiedFiles:
    *sources, target = _words(value, shown) or [""]
    if not sources or any(s.startswith(("--", "<<")) or ".." in s.split("/") for s in sources):
        raise _refused(shown)
    place = _place(target, workdir, shown)
    is_folder = len(sources) > 1 or target.endswith(("/", "/.")) or target == "."
    return CopiedFiles(
        sources=tuple(source.lstrip("/") or "." for source in sources),
        target=f"{place}/" if is_folder else place,
    )


def _variables(value: str, shown: str) -> dict[str, str]:
    if "$" in value:
        raise _refused(shown)
    words = _words(value, shown)
    if words and "=" not in words[0]:
        name, _, rest = value.partition(" ")
        return {name: rest.strip()}
    if not words or not all("=" in word for word in words):
        raise _refused(shown)
    return {name: content for name, _, content in (word.partition("=") for word in words)}


def _made(value: str, workdir: str, shown: str) -> list[MadeFolder]:
    found = []
    for command in value.split("&&"):
        words = [] if re.search(r"[$`;|&<>*?(){}\[\]]", command) else _words(command, shown)
        folders = [word for word in words[1:] if word != "-p"]
        if words[:1] != ["mkdir"] or not folders or any(f.startswith("-") for f in folders):
            raise _refused(shown)
        found += [MadeFolder(path=_place(folder, workdir, shown)) for folder in folders]
    return found


def _words(value: str, shown: str) -> list[str]:
    try:
        words = json.loads(value) if value.startswith("[") else shlex.split(value)
    except ValueError:
        raise _refused(shown) from None
    if not all(isinstance(word, str) for word in words):
        raise _refused(shown)
    return words


def _place(path: str, workdir: str, shown: str) -> str:
    if not path or "$" in path or "\0" in path:
        raise _refused(shown)
    place = posixpath.normpath(posixpath.join(workdir, path))
    return f"/{place.lstrip('/')}"


def _refused(shown: str) -> NeedsMore:
    one_line = " ".join(shown.split())
    cut = "…" if len(one_line) > _MAX_SHOWN else ""
    return NeedsMore(f"an image: {one_line[:_MAX_SHOWN]}{cut}")
