"""What is asked of a sandbox: one command with all that it gets, checked once."""

import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from astuner.errors import SandboxError
from astuner.sandbox.limits import Limits
from astuner.sandbox.relay import GatewayPlace

MAX_FILES = 256
"""Each travels as an open file of this process."""
MAX_ARGUMENT_BYTES = 128 * 1024
"""Linux takes no longer one: MAX_ARG_STRLEN."""
SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One command. Paths are those that it sees itself."""

    argv: tuple[str, ...]
    files: Mapping[str, bytes]
    """Content by name, relative to the folder."""
    mounts: Mapping[str, Path]
    """Host folders that it may write to, by where they stand inside."""
    read_only: Mapping[str, Path]
    environment: Mapping[str, str]
    folder: str | None
    """Where it starts; None: the scratch folder."""
    gateway: GatewayPlace | None
    """What it may reach under the same address; None: it has no network."""
    limits: Limits

    def __post_init__(self) -> None:
        _check_texts("the command", self.argv)
        if not self.argv or not self.argv[0]:
            raise SandboxError("sandbox: the command is empty; name a program to run")
        if self.folder is not None:
            _check_place("folder", self.folder)
        for place in (*self.mounts, *self.read_only):
            _check_place("mount", place)
        for name, value in self.environment.items():
            _check_texts("the environment", (name, value))
            if not name or "=" in name:
                raise SandboxError(f"sandbox: environment: {name!r} is no name of a variable")
        self._check_files()

    def _check_files(self) -> None:
        for name in self.files:
            check_file_name(name)
        if len(self.files) > MAX_FILES:
            raise SandboxError(
                f"sandbox: files: {len(self.files)} were given and at most {MAX_FILES} are taken; "
                "put them into a folder and mount that"
            )
        size = sum(len(content) for content in self.files.values())
        if size > self.limits.disk_bytes:
            raise SandboxError(
                f"sandbox: files: {size} bytes are more than the {self.limits.disk_bytes} that "
                "astuner.sandbox.disk_mb allows; raise that, or mount a folder"
            )

    def mount_of_folder(self) -> tuple[Path, str] | None:
        """The writable host folder that the command starts in, and the way down from there; None
        where it starts elsewhere."""
        if self.folder is None:
            return None
        for place in sorted(self.mounts, key=len, reverse=True):
            if is_within(self.folder, place):
                return self.mounts[place], posixpath.relpath(self.folder, place)
        return None


def command_of(command: str | Sequence[str]) -> tuple[str, ...]:
    """A text is for the shell, anything else the program and its arguments."""
    return (*SHELL, command) if isinstance(command, str) else tuple(command)


def is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def check_file_name(name: str) -> None:
    _check_texts("files", (name,))
    parts = name.split("/")
    if not name or name.startswith("/") or any(p in {"", ".", ".."} for p in parts):
        raise SandboxError(
            f"sandbox: files: {name!r} is no name inside of the folder; give a relative one such "
            "as 'src/main.py', without '..'"
        )


def _check_place(what: str, path: str) -> None:
    if not path.startswith("/") or "\0" in path or path != posixpath.normpath(path) or path == "/":
        raise SandboxError(
            f"sandbox: {what}: {path!r} is no place inside; give an absolute path such as '/app', "
            "without '..' and without a slash at its end"
        )


def _check_texts(what: str, texts: tuple[str, ...]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise SandboxError(f"sandbox: {what}: {type(text).__name__} found where text belongs")
        try:
            size = len(os.fsencode(text))
        except UnicodeEncodeError as error:
            raise SandboxError(
                f"sandbox: {what}: half a character cannot be given to a program: {error}"
            ) from error
        if "\0" in text:
            raise SandboxError(
                f"sandbox: {what}: it holds a NUL byte, which no program can be given; put the "
                "text into a file"
            )
        if size >= MAX_ARGUMENT_BYTES:
            raise SandboxError(
                f"sandbox: {what}: {size} bytes in one argument, and Linux takes "
                f"{MAX_ARGUMENT_BYTES} bytes; put the text into a file"
            )
