"""Folders of the host that sandboxed code writes to: whose they are, and how files get there."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from astuner.errors import SandboxError
from astuner.sandbox.order import check_file_name

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

UID_UNDER_ROOT = 65533
"""Whom code runs as where this process is root: of no account, and not `nobody`, whom others use.
The kernel counts no processes of root, and what root leaves behind would be root's on the host."""


def is_root() -> bool:
    """Whether this process is root and can become that user; root of a namespace that has no others
    is for the kernel the user who made it."""
    if os.geteuid() != 0:
        return False
    return all(_is_mapped(Path(f"/proc/self/{kind}_map").read_text()) for kind in ("uid", "gid"))


def _is_mapped(ranges: str) -> bool:
    numbers = [[int(text) for text in line.split()] for line in ranges.splitlines()]
    return any(first <= UID_UNDER_ROOT < first + count for first, _, count in numbers)


def write_files(root: Path, below: str, files: Mapping[str, bytes]) -> None:
    """Write each file below the folder, which is made where it is missing.

    No link is followed on the way: a name that leads over one is refused, and a link, device or
    pipe in the place of a file is replaced.
    """
    with (
        _opened(os.fspath(root.resolve()), None) as root_fd,
        _below(root_fd, _parts(below)) as folder_fd,
    ):
        for name, content in files.items():
            check_file_name(name)
            *folders, last = name.split("/")
            with _below(folder_fd, folders) as parent_fd:
                _write(last, parent_fd, content)


def give_to(folder: Path, uid: int, gid: int) -> None:
    """Make a user the owner of a folder and of all in it, links themselves and not their ends."""
    try:
        for _, folders, files, folder_fd in os.fwalk(folder, follow_symlinks=False):
            _own(".", folder_fd, uid, gid)
            for name in (*folders, *files):
                _own(name, folder_fd, uid, gid)
    except (RecursionError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EMFILE:
            raise
        # Folders lie deeper than Python can follow, or than it may open at the same time.
        _by_program("chown", "-R", "-h", f"{uid}:{gid}", folder)


def remove(folder: Path) -> None:
    """Delete it, whatever code made of its permissions, and however deep it lies."""
    with suppress(OSError):
        os.rmdir(folder)  # also where no file can be opened to look what is in there
        return
    try:
        shutil.rmtree(folder)
    except (RecursionError, OSError):
        _by_program("chmod", "-R", "u+rwx", folder)
        _by_program("rm", "-rf", folder)


def _by_program(program: str, *arguments: str | Path) -> None:
    """Of the system, wherever PATH leads. None of these follows a link on its way down."""
    command = [program, *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    if found.returncode:
        raise SandboxError(f"sandbox: {' '.join(command)} failed: {found.stderr.strip()[-500:]}")


def _own(name: str, folder_fd: int, uid: int, gid: int) -> None:
    with suppress(FileNotFoundError):  # another run in the folder may have removed it
        found = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        if (found.st_uid, found.st_gid) != (uid, gid):
            os.chown(name, uid, gid, dir_fd=folder_fd, follow_symlinks=False)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in {"", "."}]


def _write(name: str, folder_fd: int, content: bytes) -> None:
    try:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder_fd)
    except OSError as error:
        raise SandboxError(f"sandbox: files: {name!r} cannot be replaced: {error}") from error
    fd = os.open(
        name,
        os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
        0o666,
        dir_fd=folder_fd,
    )
    with open(fd, "wb") as file:
        file.write(content)


@contextmanager
def _below(folder_fd: int, parts: list[str]) -> Iterator[int]:
    if not parts:
        yield folder_fd
        return
    with _opened(parts[0], folder_fd) as fd, _below(fd, parts[1:]) as last:
        yield last


@contextmanager
def _opened(name: str, parent_fd: int | None) -> Iterator[int]:
    try:
        if parent_fd is not None:
            with suppress(FileExistsError):
                os.mkdir(name, 0o777, dir_fd=parent_fd)
        fd = os.open(name, _FOLDER, dir_fd=parent_fd)
    except OSError as error:
        raise SandboxError(
            f"sandbox: files: {name!r} is no folder to write to, a link perhaps: {error}"
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)
