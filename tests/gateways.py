"""A gateway over a scripted engine, for tests that talk HTTP to it."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from astuner.gateway.door import Address, Door
from astuner.gateway.gateway import Gateway, GatewayOptions
from astuner.gateway.sampling import Distribution
from astuner.inference.chat import TokenChat
from astuner.tuner import ModelTuner
from tests.chats import make_chat
from tests.fakes import ScriptedEngine

TRAINING = Distribution(temperature=0.7, top_p=1.0, top_k=-1)
GREEDY = Distribution(temperature=0.0, top_p=1.0, top_k=-1)
QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]


def gateway_options(**changes) -> GatewayOptions:
    fields = {
        "host": "127.0.0.1",
        "advertised_host": None,
        "port": 0,
        "max_body_bytes": 100_000,
        "max_waiting_calls": 2000,
        "client_sampling": "refuse",
        "model_name": "models/small",
        "training": TRAINING,
        "validation": GREEDY,
    }
    return GatewayOptions(**{**fields, **changes})


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One episode with its model behind the gateway."""

    engine: ScriptedEngine
    chat: TokenChat
    gateway: Gateway
    door: Door
    tuner: ModelTuner
    http: httpx.AsyncClient

    @property
    def calls(self):
        return self.chat.recorder.calls

    def address(self, agent_name="agent") -> Address:
        return self.tuner.as_oai_baseurl_apikey(agent_name)

    async def post(self, path: str, body: Any, *, headers: Mapping[str, str] | None = None):
        """Send to a path below /v1 with the agent's key, unless `headers` bring another one."""
        address = self.address()
        named = {"authorization": f"Bearer {address.api_key}", **(headers or {})}
        content = {"content": body} if isinstance(body, (str, bytes)) else {"json": body}
        return await self.http.post(f"{address.base_url}/{path}", headers=named, **content)

    async def ask(self, *, headers: Mapping[str, str] | None = None, **fields):
        """A chat completion of one question."""
        return await self.post(
            "chat/completions", {"messages": QUESTION, **fields}, headers=headers
        )


def client() -> httpx.AsyncClient:
    # Without certificates, which take 40 ms to load.
    return httpx.AsyncClient(trust_env=False, verify=False)


@contextlib.asynccontextmanager
async def serving(
    script, *, seconds=20.0, is_validation=False, tokenizer=None, find_madness=None, **changes
) -> AsyncIterator[Served]:
    engine = (
        script
        if isinstance(script, ScriptedEngine)
        else ScriptedEngine(script, tokenizer=tokenizer)
    )
    chat = make_chat(engine, tokenizer=tokenizer, find_madness=find_madness or (lambda reply: None))
    async with Gateway(gateway_options(**changes)) as gateway, client() as http:
        door = gateway.open(chat, seconds=seconds, is_validation=is_validation)
        tuner = ModelTuner(chat, door=door)
        try:
            yield Served(
                engine=engine, chat=chat, gateway=gateway, door=door, tuner=tuner, http=http
            )
        finally:
            await door.close()
