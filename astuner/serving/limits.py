"""What the server grants to whoever connects, before anything is known of them."""

import resource
from dataclasses import dataclass, field

_MAX_CONNECTIONS = 8192
"""However many files may be open: each connection takes some 20 kB."""
_UNLIMITED_FILES = 1 << 20


def max_open_files() -> int:
    """The soft limit of this process. It is left as it is: programs that call select() rely on it,
    and user code and its child processes may."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED_FILES if soft == resource.RLIM_INFINITY else soft


def max_connections(num_files: int) -> int:
    """Half of the files that may be open.

    The rest is for the run: its own files, and the other ends of connections, since most clients
    live in this process.
    """
    return max(1, min(_MAX_CONNECTIONS, num_files // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Of one server."""

    max_connections: int = field(default_factory=lambda: max_connections(max_open_files()))
    """Open at the same time; those beyond wait to be accepted."""
    newcomer_seconds: float = 0.25
    """How long a connection keeps its place for certain: time enough to be read from once."""
    head_seconds: float = 10.0
    """From the beginning of a connection, or of a later request, to the end of its header."""
    rest_seconds: float = 10.0
    """For a body that is still being sent when its request is answered."""
    farewell_seconds: float = 2.0
    """For a client that is being refused to stop sending and read why."""
    max_head_bytes: int = 32 * 1024
    max_header_lines: int = 100
