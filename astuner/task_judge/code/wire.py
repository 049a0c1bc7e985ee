"""Plain values as lines of JSON between the process of the tests and that of the code.

Runs inside the sandbox, on both sides, and imports nothing of astuner. What it reads comes out as
exact built-in types, so that no `__eq__` of the code under test is ever asked.
"""

import json
import socket
from collections.abc import Callable
from typing import Any

MAX_LINE_BYTES = 8 * 1024 * 1024
_MOST_PLAIN_BITS = 8192
"""Python reads and writes longer integers as decimals at most in part."""


class NotPlain(TypeError):
    """A value that no line can hold."""


def pack(value: Any, keep: Callable[[Any], int] | None = None) -> Any:
    """As JSON holds it. `keep` gives the number of a thing that stays where it is.

    Of a class derived from a plain one, such as an enumeration, it is what that one holds.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        whole = int.__int__(value)
        return whole if whole.bit_length() <= _MOST_PLAIN_BITS else {"int": hex(whole)}
    if isinstance(value, float):
        number = float.__float__(value)
        return number if number - number == 0 else {"float": repr(number)}
    if isinstance(value, complex):
        return {"complex": [pack(value.real), pack(value.imag)]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    for name, kind in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, kind):
            return {name: [pack(item, keep) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[pack(k, keep), pack(v, keep)] for k, v in value.items()]}
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return pack(value.tolist(), keep)
    if keep is None:
        raise NotPlain(f"a value of type {type(value).__name__} cannot be handed to the code")
    return {"kept": keep(value), "type": type(value).__name__}


def unpack(packed: Any, kept: Callable[[int, str], Any]) -> Any:
    """The value; `kept` makes what stands for a thing that stays, of its number and type."""
    if packed is None or isinstance(packed, bool | int | float | str):
        return packed
    if not isinstance(packed, dict):
        raise ValueError("not a packed value")
    if "kept" in packed:
        return kept(int(packed["kept"]), str(packed.get("type")))
    ((name, inner),) = packed.items()
    if name == "int":
        return int(str(inner), 16)
    if name == "float":
        return float(str(inner))
    if name == "complex":
        real, imaginary = (float(unpack(part, kept)) for part in inner)
        return complex(real, imaginary)
    if name == "bytes":
        return bytes.fromhex(inner)
    if name == "dict":
        return {unpack(key, kept): unpack(value, kept) for key, value in inner}
    kinds = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return kinds[name](unpack(item, kept) for item in inner)


def say(stream: Any, value: Any) -> None:
    stream.write(json.dumps(value).encode() + b"\n")
    stream.flush()


def hear(stream: Any) -> Any:
    """The next value; None where the other side is gone."""
    line = stream.readline(MAX_LINE_BYTES)
    return json.loads(line) if line.endswith(b"\n") else None


def connect(port: int, secret: str) -> Any:
    """The stream to the other side; `secret` says which side this is."""
    stream = socket.create_connection(("127.0.0.1", port)).makefile("rwb")
    say(stream, secret)
    return stream
