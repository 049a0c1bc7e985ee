"""Where a server listens, and by which address others reach it."""

import socket

from astuner.errors import ConfigError
from astuner.machine.os_errors import advice

_BACKLOG = 256
"""Connections that may wait to be accepted: as many as come in while a step of the loop is slow."""


def listen(host: str, port: int, *, setting: str) -> socket.socket:
    """A socket that listens already; port 0: any that is free.

    Raises ConfigError for an address that is taken or not of this machine, or where no file can be
    opened; it names the host and the port of the section `setting`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off for sockets that name their protocol, and for no others;
    # with it, each answer waits 40 ms for an acknowledgement.
    listening = None
    try:
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise ConfigError(
            f"{setting}.host {host}, {setting}.port {port}: cannot listen there "
            f"({error.strerror or error}); {advice(error.errno)}"
        ) from error
    return listening


def reachable_host(host: str) -> str:
    """The host itself, or for all addresses of the machine the one that it reaches others from."""
    elsewhere = {"0.0.0.0": "192.0.2.1", "::": "2001:db8::1"}.get(host)
    if elsewhere is None:
        return host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Addresses for documentation (RFC 5737, RFC 3849); connecting a datagram socket sends nothing.
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect((elsewhere, 9))
        except OSError:  # there is no network
            return "::1" if ":" in host else "127.0.0.1"
        return asking.getsockname()[0]


def http_address(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"
