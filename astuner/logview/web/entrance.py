"""Where the viewer listens, by which links it is reached, and who may come in."""

import errno
import getpass
import ipaddress
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from astuner.errors import ConfigError
from astuner.machine.account import has_name
from astuner.machine.listeners import listener_at
from astuner.machine.os_errors import advice
from astuner.serving.address import http_address, listen, reachable_host

USUAL_PORTS = range(27886, 27896)
"""Tried first, so that a link lives on when the viewer is started again. The first one spells
"astun" on a telephone's keys; Linux gives none of them to programs that ask for any."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """A socket that listens already, so that its links can be told before anything is served."""

    listening: socket.socket
    host: str
    """In the links."""
    is_private: bool
    """Whether only this machine reaches it."""
    token: str | None
    """Whoever comes has to show it; None where nobody has to."""
    allowed_hosts: tuple[str, ...] = ()
    """By which a browser may call it besides its own names."""

    @property
    def port(self) -> int:
        return self.listening.getsockname()[1]

    @property
    def names(self) -> frozenset[str]:
        """Hosts that requests may name."""
        from astuner.serving.hosts import own_names

        return frozenset({*own_names(), self.host, *self.allowed_hosts})

    def link(self, path: str) -> str:
        """To a page, with the token where one is needed."""
        key = f"?token={self.token}" if self.token else ""
        return f"{http_address(self.host, self.port)}{path}{key}"


def open_entrance(
    host: str = LOOPBACK,
    port: int | None = None,
    *,
    allowed_hosts: Sequence[str] = (),
    with_token: bool = False,
) -> Entrance:
    """Listen at `host`; without a port, at the first of the usual ones that is free, or any.

    Where other machines reach that, there is a token in any case.
    Raises ConfigError for a host that is not of this machine, and for a port that is taken.
    """
    listening = _listen(host, port) if port is not None else _listen_anywhere(host)
    is_private = _is_private(listening)
    return Entrance(
        listening=listening,
        host=reachable_host(host),
        is_private=is_private,
        token=secrets.token_urlsafe(32) if with_token or not is_private else None,
        allowed_hosts=tuple(allowed_hosts),
    )


def _listen_anywhere(host: str) -> socket.socket:
    for port in USUAL_PORTS:
        try:
            return listen(host, port, setting="logview")
        except ConfigError:
            continue
    return _listen(host, 0)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return listen(host, port, setting="logview")
    except ConfigError as error:
        asked = f"--host {host}, --port {port}" if port else f"--host {host}"
        raise ConfigError(
            f"astuner logview: cannot listen at {asked}: {_found(error.__cause__, port)}"
        ) from error


def _found(error: BaseException | None, port: int) -> str:
    """What was found there, and what to do."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return (
            f"{listener_at(port) or 'another program'} listens there; end it, or leave --port out: "
            "then a port that is free is taken"
        )
    return f"{error}; {advice(number)}"


def _is_private(listening: socket.socket) -> bool:
    """Whether nobody but this machine reaches it, whatever its host was called."""
    address, _, _zone = listening.getsockname()[0].partition("%")
    return ipaddress.ip_address(address).is_loopback


def ssh_line(entrance: Entrance, environment: Mapping[str, str] = os.environ) -> str | None:
    """What to type on one's own machine so that the link leads here from there.

    None where a browser is likely to be here, or the link is good from elsewhere anyway.
    """
    has_display = any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    is_remote = "SSH_CONNECTION" in environment
    if not entrance.is_private or (has_display and not is_remote):
        return None
    here = http_address(entrance.host, entrance.port).removeprefix("http://")
    user = f"{getpass.getuser()}@" if has_name() else ""
    address, port = _reached_as(environment.get("SSH_CONNECTION", ""))
    other_port = "" if port == "22" else f"-p {port} "
    return f"ssh {other_port}-L {entrance.port}:{here} {user}{address}"


def _reached_as(connection: str) -> tuple[str, str]:
    """Address and port of this end of an SSH connection, else what the machine calls itself."""
    words = connection.split()
    return (words[2], words[3]) if len(words) == 4 else (socket.gethostname(), "22")
