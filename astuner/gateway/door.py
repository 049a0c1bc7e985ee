"""The door of one episode: the keys of its agents, their flights and the clients made for them.

Closing it is the end of all of them. Owns no HTTP; the calls come from `endpoint.py`.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from astuner.errors import WorkflowError
from astuner.gateway.caller import Caller
from astuner.gateway.sampling import SamplingRule
from astuner.inference.request import Chat
from astuner.serving.keys import Keys
from astuner.trajectory.refusal_log import RefusalLog

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

_MAX_RETRIES = 2
_CLOSE_SECONDS = 5.0
# The gateway speaks plain HTTP: loading certificates would take 60 ms a client, and a proxy of the
# environment would not find it.
_HTTP_OPTIONS: dict[str, Any] = {
    "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    "trust_env": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a client finds the model."""

    base_url: str
    """Of OpenAI's formats; ends in /v1."""
    api_key: str = field(repr=False)
    """Stands for one agent of one episode, and is good until that ends."""

    @property
    def anthropic_base_url(self) -> str:
        """Anthropic's SDK adds /v1 by itself."""
        return self.base_url.removesuffix("/v1")


class Door:
    """Made by `Gateway.open`; to be closed when the episode ends."""

    def __init__(
        self,
        chat: Chat,
        keys: Keys[Caller],
        rule: SamplingRule,
        log: RefusalLog,
        *,
        find_base_url: Callable[[], str],
        seconds: float,
    ) -> None:
        self._chat = chat
        self._keys = keys
        self._rule = rule
        self._log = log
        self._find_base_url = find_base_url
        self._seconds = seconds
        self._callers: dict[tuple[str, str], tuple[Caller, Address]] = {}
        self._async_clients: list[AsyncOpenAI] = []
        self._sync_clients: list[OpenAI] = []
        self._is_closed = False

    def address(self, *, agent_name: str, target_tag: str) -> Address:
        """The same agent gets the same key again. Starts the server when nobody did before.

        Raises WorkflowError after `close`.
        """
        name = (agent_name, target_tag)
        if self._is_closed:
            raise WorkflowError("the episode has ended: its model has no address any more")
        if name not in self._callers:
            base_url = self._find_base_url()
            caller = Caller(
                self._chat, self._rule, self._log, name=agent_name, target_tag=target_tag
            )
            address = Address(base_url=base_url, api_key=self._keys.issue(caller))
            self._callers[name] = caller, address
        return self._callers[name][1]

    def async_client(self, address: Address) -> "AsyncOpenAI":
        """Closed with the door."""
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        http_client = DefaultAsyncHttpxClient(**_HTTP_OPTIONS)
        client = AsyncOpenAI(**self._client_arguments(address), http_client=http_client)
        self._async_clients.append(client)
        return client

    def sync_client(self, address: Address) -> "OpenAI":
        """Closed with the door."""
        from openai import DefaultHttpxClient, OpenAI

        http_client = DefaultHttpxClient(**_HTTP_OPTIONS)
        client = OpenAI(**self._client_arguments(address), http_client=http_client)
        self._sync_clients.append(client)
        return client

    def _client_arguments(self, address: Address) -> dict[str, Any]:
        return {
            "base_url": address.base_url,
            "api_key": address.api_key,
            "timeout": self._seconds,
            "max_retries": _MAX_RETRIES,
        }

    def end_calls(self) -> None:
        """What is under way is cancelled and answered, and nothing more is: the episode is over by
        its own clock, which a stopped process does not turn."""
        self._is_closed = True
        for caller, _ in self._callers.values():
            caller.close()

    async def close(self) -> None:
        """The keys are worth nothing any more; what is under way is cancelled."""
        self.end_calls()
        for _, address in self._callers.values():
            self._keys.revoke(address.api_key)
        for client in self._sync_clients:
            client.close()
        if self._async_clients:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await asyncio.gather(*(client.close() for client in self._async_clients))
