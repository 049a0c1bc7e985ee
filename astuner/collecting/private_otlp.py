"""Takes secrets and personal data out of spans and log records in the JSON form of OTLP.

Everything that anybody may have written is looked through: attributes, names, messages of errors,
bodies. Ids, times and numbers stay, in the form that OTLP gives them and in no other.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from astuner.collecting.export_request import ID_KEYS
from astuner.serving.json_text import JSON
from astuner.traces.otlp.json_form import plain_attributes, plain_value
from astuner.traces.otlp_json import any_value, attributes
from astuner.traces.private_text import PrivateMask
from astuner.traces.vocabularies.signs import SESSION_KEYS, USER_KEYS

_ID = re.compile(r"(?:[0-9a-fA-F]{16}){0,2}")
_TIME = re.compile(r"\d{1,20}")
_TIMES = "UnixNano"
_WHOSE = frozenset({*SESSION_KEYS, *USER_KEYS})
"""Attributes that tell conversations and people apart."""
_TOKENS = ("astuner.prompt_ids", "astuner.reply_ids", "astuner.reply_logprobs")
"""Which spell the text of a call."""


class OtlpMask:
    """Masks records. Used by one thread."""

    def __init__(self, private: PrivateMask, *, key: bytes) -> None:
        """`key` makes the digests that tell masked users and sessions apart."""
        self._private = private
        self._key = key

    def masked(self, value: Any) -> Any:
        """A copy of a resource, a scope, a span or a log record."""
        if isinstance(value, Mapping):
            return {key: self._of_field(key, inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.masked(item) for item in value]
        return self._private.mask(value).value

    def _of_field(self, key: str, value: Any) -> Any:
        if key == "attributes" and isinstance(value, list):
            return attributes(self._of_attributes(plain_attributes(value)))
        if key == "body" and isinstance(value, Mapping):
            return any_value(self._private.mask(plain_value(value)).value)
        is_plain = isinstance(value, str | int) and _is_id_or_time(key, str(value))
        return value if is_plain else self.masked(value)

    def _of_attributes(self, told: Mapping[str, Any]) -> JSON:
        masked: JSON = {}
        is_changed = False
        for key, value in told.items():
            found = self._private.mask({key: value})
            is_changed |= bool(found.kinds)
            masked |= found.value
            if found.kinds and key in _WHOSE:
                masked[key] = f"{found.value.get(key)} {self._digest(value)}"
        if is_changed and any(key in masked for key in _TOKENS):
            masked = {key: value for key, value in masked.items() if key not in _TOKENS}
            masked["astuner.token_ids"] = "masked"
        return masked

    def _digest(self, value: Any) -> str:
        data = str(value).encode(errors="replace")
        return hashlib.blake2b(data, key=self._key, digest_size=8).hexdigest()


def _is_id_or_time(key: str, text: str) -> bool:
    if key in ID_KEYS:
        return bool(_ID.fullmatch(text))
    return key.endswith(_TIMES) and bool(_TIME.fullmatch(text))
