"""Which kinds of sandbox this system permits, found by running each once in a process."""

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from astuner.config.sections.sandbox import SandboxKind, SandboxSettings
from astuner.errors import ConfigError, SandboxError
from astuner.sandbox.bubblewrap import Bubblewrap
from astuner.sandbox.following import Followed
from astuner.sandbox.landlock import Landlock, Unconfined
from astuner.sandbox.limits import MEGABYTE, Limits
from astuner.sandbox.order import Order

logger = logging.getLogger(__name__)


class Confinement(Protocol):
    """A kind of sandbox."""

    kind: SandboxKind
    not_held: str
    """What it cannot hold here, for the log; empty where it holds all."""

    def run(self, order: Order, listener: socket.socket | None, stop_fd: int) -> Followed:
        """Run it to its end, from a thread of its own.

        Where the order has a gateway, a socket that listens at its port in there may be sent by
        `listener`. Readable, `stop_fd` ends the run.
        """
        ...


_KINDS: Mapping[SandboxKind, Callable[[], Confinement]] = {
    "bubblewrap": Bubblewrap,
    "landlock": Landlock,
    "none": Unconfined,
}
_PROBE_LIMITS = Limits(
    timeout_seconds=30,
    memory_bytes=512 * MEGABYTE,
    cpu_seconds=30,
    num_processes=64,
    output_bytes=4096,
    disk_bytes=MEGABYTE,
)


@dataclass(frozen=True, slots=True)
class Tried:
    """A kind that was tried: what runs it, or why it cannot be had."""

    confinement: Confinement | None
    reason: str


def find_confinement(settings: SandboxSettings) -> Confinement:
    """The strongest kind that the settings allow and this system permits, named once in the log.

    Raises ConfigError where there is none.
    """
    reasons = []
    for kind in settings.permitted_kinds():
        if settings.kind not in {"auto", kind}:
            continue
        tried = try_kind(kind, os.environ.get("PATH", ""))
        if tried.confinement is not None:
            _say(tried.confinement, "; ".join(reasons))
            return tried.confinement
        reasons.append(f"{kind}: {tried.reason}")
    raise ConfigError(
        f"astuner.sandbox: no kind that is as strong as {settings.require!r} works on this system "
        f"({'; '.join(reasons)}); install bubblewrap 0.8 or later and permit user namespaces, or "
        "set astuner.sandbox.require to a weaker kind"
    )


@cache
def try_kind(kind: SandboxKind, path: str) -> Tried:
    """Run the Python of this process in it, with programs of `path`, an environment's PATH."""
    if sys.platform != "linux":
        return Tried(None, f"it is for Linux, and this is {sys.platform}")
    order = Order(
        argv=(sys.executable, "-I", "-S", "-c", "print('ran')"),
        files={"probe": b""},
        mounts={},
        read_only={},
        environment={},
        folder=None,
        gateway=None,
        limits=_PROBE_LIMITS,
    )
    never_fd, end_fd = os.pipe()
    try:
        confinement = _KINDS[kind]()
        followed = confinement.run(order, None, never_fd)
    except (SandboxError, OSError) as error:
        return Tried(None, str(error).removeprefix("sandbox: "))
    finally:
        os.close(never_fd)
        os.close(end_fd)
    if followed.stdout != b"ran\n":
        found = followed.stderr.decode(errors="replace").strip()
        return Tried(None, f"Python ended with {followed.exit_code or followed.ended_by}: {found}")
    return Tried(confinement, "")


@cache
def _say(confinement: Confinement, reasons: str) -> None:
    if not confinement.not_held:
        logger.info("sandbox kind=%s", confinement.kind)
        return
    logger.warning(
        "THE SANDBOX IS WEAK kind=%s not held: %s%s",
        confinement.kind,
        confinement.not_held,
        f"; stronger ones fail here: {reasons}" if reasons else "",
    )
