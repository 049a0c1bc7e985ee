"""Keys of agents: made for an episode, good while it lives, recognised afterwards.

A key carries a number and its signature under a secret of this run. So a finished episode's key is
told from a wrong one without keeping it, and comparing takes the same time whatever is wrong.
"""

import hashlib
import hmac
import itertools
import secrets
from typing import Generic, TypeVar

from astuner.gateway.refusal import Refusal, over

_PREFIX = "sk-astuner-"

T = TypeVar("T")


class Keys(Generic[T]):
    """Which agent a key belongs to. Keys appear in no log and in no message."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)
        self._numbers = itertools.count(1)
        self._owners: dict[str, T] = {}

    def issue(self, owner: T) -> str:
        number = str(next(self._numbers))
        self._owners[number] = owner
        return f"{_PREFIX}{number}-{self._signature(number)}"

    def revoke(self, key: str) -> None:
        self._owners.pop(key.removeprefix(_PREFIX).partition("-")[0], None)

    def owner(self, key: str) -> T:
        """Raises Refusal: 401 for a key that this run did not issue, 410 after its episode."""
        number, _, signature = key.removeprefix(_PREFIX).partition("-")
        if not hmac.compare_digest(signature.encode(), self._signature(number).encode()):
            raise Refusal(
                401,
                "this API key is not one of this run; use the one that "
                "model_tuner.as_oai_baseurl_apikey() gave to the episode",
                code="invalid_api_key",
            )
        owner = self._owners.get(number)
        if owner is None:
            raise over()
        return owner

    def _signature(self, number: str) -> str:
        return hmac.new(self._secret, number.encode(), hashlib.sha256).hexdigest()
