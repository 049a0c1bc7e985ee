"""What to do about an error of the operating system, by its number."""

import errno
import shutil
import socket
from pathlib import Path

_MORE_FILES = (
    "too many files and connections are open; allow this process more of them (ulimit -n in the "
    "shell that starts it, LimitNOFILE of its service, --ulimit nofile= of its container)"
)
_ADVICE = {
    errno.EMFILE: _MORE_FILES,
    errno.ENFILE: (
        "too many files are open on this machine; end other programs, or raise fs.file-max"
    ),
    errno.ENOSPC: "free some space or file entries (df, df -i) there, or give another folder",
    errno.EDQUOT: "your share of that disk is used up; free some of it, or give another folder",
    errno.EFBIG: "the file is larger than is allowed here (ulimit -f); allow more",
    errno.EROFS: "that file system can only be read; give another folder",
    errno.EACCES: "this user may not do that there; change the rights, or give another place",
    errno.EPERM: "this user may not do that there; change the rights, or give another place",
    errno.ENOENT: "it was deleted or moved meanwhile; put it back, or give another folder",
    errno.ENOTDIR: "a part of that path is a file; give another folder",
    errno.ENAMETOOLONG: "the path is too long; give a shorter one",
    errno.EIO: "the disk has failed; see what the system's log says of it, or give another folder",
    errno.ESTALE: "the network file system has lost it; mount it again, or give another folder",
    errno.ENOMEM: "the machine is out of memory; end other programs, or use less of it",
    errno.EADDRINUSE: "another program listens there; choose another port, or 0 for a free one",
    errno.EADDRNOTAVAIL: "this machine has no such address; name one of its own, or 0.0.0.0",
    socket.EAI_NONAME: "no address is known for that name; give another, or the address",
    socket.EAI_AGAIN: "no address is known for that name now; give another, or the address",
}
_OTHER = "mend the cause"
_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def advice(number: int | None) -> str:
    """What to do about the error of this number, as a clause without a capital and an end."""
    return _ADVICE.get(number or 0, _OTHER)


def told(error: OSError, *, folder: Path) -> str:
    """What was found: the system's words, the number, and the room on the disk where it matters.

    `folder` need not exist.
    """
    words = f"{error.strerror or error} (errno {error.errno})"
    if error.errno not in _OF_THE_DISK:
        return words
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return f"{words}; {shutil.disk_usage(there).free / 1e6:,.1f} MB are free on that disk"
