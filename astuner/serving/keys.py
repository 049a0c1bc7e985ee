"""Keys for clients: issued to an owner, good until they are revoked, recognised afterwards.

A key carries a number and its signature under a secret of this object. So one that was revoked is
told from a wrong one without keeping it, and comparing takes the same time whatever is wrong.
"""

import hashlib
import hmac
import itertools
import secrets
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from astuner.serving.refusal import CLOSE, Refusal

T = TypeVar("T")


class Keys(Generic[T]):
    """Whose a key is. Keys appear in no log and in no message."""

    def __init__(
        self, *, prefix: str, unknown: Callable[[], Refusal], revoked: Callable[[], Refusal]
    ) -> None:
        """Keys begin with `prefix`; the refusals are for one that was never issued here, and for
        one that is good no more."""
        self._prefix = prefix
        self._unknown = unknown
        self._revoked = revoked
        self._secret = secrets.token_bytes(32)
        self._numbers = itertools.count(1)
        self._owners: dict[str, T] = {}

    def issue(self, owner: T) -> str:
        number = str(next(self._numbers))
        self._owners[number] = owner
        return f"{self._prefix}{number}-{self._signature(number)}"

    def revoke(self, key: str) -> None:
        self._owners.pop(self._parts(key)[0], None)

    def owner(self, key: str) -> T:
        """Raises the Refusal for a key that was never issued here, or the one for a revoked key."""
        number, signature = self._parts(key)
        if not hmac.compare_digest(signature.encode(), self._signature(number).encode()):
            raise self._unknown()
        if number not in self._owners:
            raise self._revoked()
        return self._owners[number]

    def _parts(self, key: str) -> tuple[str, str]:
        """Its number and its signature, whatever these are; both empty without the prefix."""
        number, _, signature = key.removeprefix(self._prefix).partition("-")
        return (number, signature) if key.startswith(self._prefix) else ("", "")

    def _signature(self, number: str) -> str:
        return hmac.new(self._secret, number.encode(), hashlib.sha256).hexdigest()


def bearer_key(headers: Mapping[bytes, bytes]) -> str | None:
    """What `Authorization: Bearer` holds; None where a request names no such key."""
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return key.decode("latin-1") if scheme.lower() == b"bearer" else None


def presented_key(headers: Mapping[bytes, bytes]) -> str:
    """The key of a request, from `Authorization: Bearer` or `x-api-key`; empty where there is none.

    Raises Refusal 401 for a request that names two.
    """
    bearer, plain = bearer_key(headers), headers.get(b"x-api-key")
    key = "" if plain is None else plain.decode("latin-1")
    if bearer is None or plain is None:
        return key if bearer is None else bearer
    if not hmac.compare_digest(bearer.encode(), key.encode()):
        raise Refusal(
            401,
            "the headers authorization and x-api-key hold different keys; send one of them",
            code="invalid_api_key",
            headers=CLOSE,
        )
    return bearer
