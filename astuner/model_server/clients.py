"""Who may ask: the keys of a server, and what is kept of the client that has one.

A client lives as long as the server; what is kept of it is bounded. Keys appear in no log.
"""

import hashlib
import hmac
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from astuner.gateway.flights import Flight, Flights
from astuner.model_server.choice_call import ChoiceCall
from astuner.serving.keys import presented_key
from astuner.serving.refusal import CLOSE, Refusal


class ApiClient:
    """All who show one key, or none where none is asked for."""

    def __init__(self, label: str) -> None:
        self.label = label
        """Tells its key from the others, and is no key; empty without one."""
        self.flights = Flights(ended=server_ends)
        self.choices: WeakKeyDictionary[Flight, list[ChoiceCall]] = WeakKeyDictionary()
        """Of the flights that are still known."""


class ApiClients:
    """The clients of a server, by their keys."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Without keys, everybody is one client."""
        self._by_digest = [(_digest(key), ApiClient(_label(key))) for key in dict.fromkeys(keys)]
        self._everybody = None if keys else ApiClient("")

    def find(self, headers: dict[bytes, bytes]) -> ApiClient:
        """Raises Refusal 401. Takes as long whatever key is shown."""
        if self._everybody is not None:
            return self._everybody
        shown, found = _digest(presented_key(headers)), None
        for digest, client in self._by_digest:
            if hmac.compare_digest(digest, shown):
                found = client
        if found is None:
            raise _unknown_key()
        return found

    def close(self) -> None:
        """What is under way is cut off."""
        clients = [client for _, client in self._by_digest]
        for client in [*clients, *([self._everybody] if self._everybody else [])]:
            client.flights.close()


def server_ends() -> Refusal:
    """For calls that come while the server ends, or are cut off by its end."""
    return Refusal(
        503,
        "this server is ending; ask again in a moment, or ask another one",
        code="server_ending",
        headers={"retry-after": "5", **CLOSE},
    )


def _unknown_key() -> Refusal:
    return Refusal(
        401,
        "this API key is not one of this server; send one of those that it was started with, as "
        "`Authorization: Bearer KEY` or `x-api-key: KEY`",
        code="invalid_api_key",
        headers=CLOSE,
    )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _label(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=4, person=b"astuner key").hexdigest()
