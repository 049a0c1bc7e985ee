"""Where a server listens, which it does not for other machines without a key."""

import errno
import ipaddress
import socket

from astuner.errors import ConfigError
from astuner.machine.listeners import listener_at
from astuner.machine.os_errors import advice
from astuner.serving.address import listen


def listen_for_clients(host: str, port: int, *, has_keys: bool, without_key: bool) -> socket.socket:
    """Raises ConfigError for an address that is taken or not of this machine, and for one that
    other machines reach without a key, unless that is meant, `without_key`."""
    try:
        listening = listen(host, port, setting="serve")
    except ConfigError as error:
        raise ConfigError(
            f"serve: cannot listen at --host {host}, --port {port}: {_found(error.__cause__, port)}"
        ) from error
    if not (has_keys or without_key or _is_private(listening)):
        listening.close()
        raise ConfigError(
            f"serve: --host {host} is reached by other machines, and no key is asked for; give one "
            "by --api-key-env NAME or --api-keys-file FILE, or --no-key where everybody may ask"
        )
    return listening


def _found(error: BaseException | None, port: int) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        who = listener_at(port) or "another program"
        return f"{who} listens there; end it, or give another --port"
    return f"{error}; {advice(number)}"


def _is_private(listening: socket.socket) -> bool:
    address, _, _zone = listening.getsockname()[0].partition("%")
    return ipaddress.ip_address(address).is_loopback
