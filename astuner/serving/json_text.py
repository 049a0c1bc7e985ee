"""JSON as our servers write it, alone or in an event of a stream."""

import json
from typing import Any

JSON = dict[str, Any]
"""An object."""

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""Made once: `json.dumps` makes an encoder for each call that wants other separators."""


def to_json(value: object) -> bytes:
    """Escaped to ASCII: some clients take U+2028 and its like for the end of an event's line."""
    return _encode(value).encode()


def data_event(value: object, *, name: str | None = None) -> bytes:
    """One server-sent event."""
    prefix = f"event: {name}\ndata: ".encode() if name else b"data: "
    return b"".join((prefix, to_json(value), b"\n\n"))
