"""An environment server in this process, for tests that talk HTTP to it."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from astuner.env_service.server.serve import serve_environments
from astuner.env_service.server.world import ServerSettings, World

WORLDS = Path(__file__).parent / "worlds.py"


def world(class_name: str, *, name: str = "world", **options) -> World:
    return World(name=name, target=f"{WORLDS}->{class_name}", options=options)


def settings(**changes) -> ServerSettings:
    return ServerSettings(**{"port": 0, "num_spares": 1, "memory_mb": None, **changes})


class EnvClient:
    """Posts bodies, and keeps to itself whether it succeeds."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def post(self, route: str, *, headers=None, **body) -> httpx.Response:
        return await self.http.post(route, json=body, headers=headers)

    async def data(self, route: str, **body) -> Any:
        answer = await self.post(route, **body)
        assert answer.status_code == 200 and answer.json()["success"], answer.text
        return answer.json()["data"]

    async def error(self, route: str, **body) -> dict[str, Any]:
        answer = await self.post(route, **body)
        told = answer.json()
        assert told["success"] is False and told["data"] is None
        assert told["detail"] == told["error"]["message"]
        assert "Traceback" not in answer.text
        return told["error"]

    async def create(self, task_id="a", *, env_type="world", **params) -> str:
        made = await self.data("/create", env_type=env_type, task_id=task_id, params=params)
        return made["info"]["instance_id"]

    def step_body(self, instance_id: str, text: str, index: int | None = None) -> dict[str, Any]:
        params = {} if index is None else {"step_index": index}
        message = {"role": "assistant", "content": text}
        return {"instance_id": instance_id, "messages": message, "params": params}

    async def step(self, instance_id: str, text: str, index: int | None = None) -> Any:
        return await self.data("/step", **self.step_body(instance_id, text, index))

    async def step_error(self, instance_id: str, text: str, index: int | None = None) -> Any:
        return await self.error("/step", **self.step_body(instance_id, text, index))


@contextlib.asynccontextmanager
async def env_server(*worlds: World, headers=None, **changes) -> AsyncIterator[EnvClient]:
    served = worlds or (world("EchoWorld"),)
    async with (
        serve_environments(served, settings(**changes)) as address,
        httpx.AsyncClient(base_url=address, trust_env=False, timeout=60, headers=headers) as http,
    ):
        yield EnvClient(http)
