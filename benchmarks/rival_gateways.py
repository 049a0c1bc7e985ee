"""Starts the gateway of another tuner for `gateway_rivals.py`, in an environment that has it.

    python benchmarks/rival_gateways.py agent-lightning NUMBER_OF_EPISODES

Prints where it is as JSON, serves until its input is closed, and prints the processor time that it
took. Needs nothing of astuner.
"""

import asyncio
import json
import os
import pickle
import socket
import sys
import tempfile
import time
import types
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

ANSWER = "The answer is in the pages that were found. " * 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def announce(port: int, *, keys: list[str], paths: list[str]) -> None:
    found = {"address": f"http://127.0.0.1:{port}/v1", "keys": keys, "paths": paths}
    print(json.dumps(found), file=sys.__stdout__, flush=True)
    started = time.process_time()
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(time.process_time() - started), file=sys.__stdout__, flush=True)


def completion(model: str) -> dict[str, Any]:
    """As vLLM answers it with `return_token_ids`: 200 tokens of prompt, 88 sampled."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "prompt_token_ids": [1] * 200,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ANSWER},
                "finish_reason": "stop",
                "token_ids": [1] * 88,
            }
        ],
        "usage": {"prompt_tokens": 200, "completion_tokens": 88, "total_tokens": 288},
    }


async def serve_backend(num_episodes: int) -> None:
    """An engine's server that answers at once, behind which Agent-Lightning's proxy stands."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def chat(request: Request) -> JSONResponse:
        return JSONResponse(completion((await request.json())["model"]))

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    port = free_port()
    config = uvicorn.Config(app, port=port, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    paths = ["/v1/chat/completions"] * num_episodes
    await announce(port, keys=["k"] * num_episodes, paths=paths)
    server.should_exit = True
    await serving


async def serve_agent_lightning(num_episodes: int) -> None:
    """`LLMProxy` with its store, each episode a rollout of its own."""
    from agentlightning import LLMProxy
    from agentlightning.store.memory import InMemoryLightningStore

    store = InMemoryLightningStore(thread_safe=True)
    port = free_port()
    backend = {"model": "hosted_vllm/m", "api_base": os.environ["BACKEND"], "api_key": "k"}
    proxy = LLMProxy(
        port=port,
        host="127.0.0.1",
        launch_mode="thread",
        store=store,
        model_list=[{"model_name": "m", "litellm_params": backend}],
    )
    await proxy.start()
    rollouts = [await store.start_rollout(input="question") for _ in range(num_episodes)]
    paths = [
        f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}/v1/chat/completions"
        for rollout in rollouts
    ]
    await announce(port, keys=["k"] * num_episodes, paths=paths)
    await proxy.stop()


async def serve_agentjet(num_episodes: int) -> None:
    """The interchange server of AgentJet, each episode with a listener that answers at once.

    The module alone is loaded: the package imports its trainers. It asks vLLM, where vLLM does not
    have it any more, for the class of a request, in whose place an open model stands.
    """
    from pydantic import ConfigDict, create_model

    for name in ("vllm", "vllm.entrypoints", "vllm.entrypoints.openai"):
        sys.modules[name] = types.ModuleType(name)
    protocol = types.ModuleType("vllm.entrypoints.openai.protocol")
    protocol.ChatCompletionRequest = create_model(  # type: ignore[attr-defined]
        "ChatCompletionRequest",
        __config__=ConfigDict(extra="allow"),
        __module__=protocol.__name__,  # it is pickled
    )
    sys.modules[protocol.__name__] = protocol
    interchange = _interchange_module()
    port = free_port()
    os.environ["AJET_DAT_INTERCHANGE_PORT"] = str(port)
    interchange.start_interchange_server(tempfile.mkdtemp())
    names = [f"episode{number}" for number in range(num_episodes)]
    listeners = [asyncio.create_task(_listen(port, name)) for name in names]
    await asyncio.sleep(1)
    await announce(
        port,
        keys=[_agentjet_key(name) for name in names],
        paths=["/v1/chat/completions"] * num_episodes,
    )
    for listener in listeners:
        listener.cancel()


def _interchange_module() -> Any:
    package = find_spec("ajet")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "tuner_lib/weight_tuner/experimental"
    spec = spec_from_file_location("as_oai_model_server", path / "as_oai_model_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _agentjet_key(episode: str) -> str:
    import base64

    named = {"agent_name": "agent", "target_tag": "tag", "episode_uuid": episode}
    return base64.b64encode(json.dumps(named).encode()).decode()


async def _listen(port: int, episode: str) -> None:
    """In place of AgentJet's InterchangeClient, whose tracker needs the trainer."""
    import websockets
    from openai.types.chat.chat_completion import ChatCompletion

    address = f"ws://127.0.0.1:{port}/hook/context_tracker_client_listen"
    while True:
        try:
            async with websockets.connect(address) as connection:
                await connection.send(pickle.dumps(f"episode_uuid:{episode}"))
                while True:
                    call = pickle.loads(await connection.recv())
                    said = {**completion("m"), "id": call.timeline_uuid}
                    await connection.send(pickle.dumps(ChatCompletion.model_validate(said)))
        except OSError:  # the server is not there yet
            await asyncio.sleep(0.1)


SERVERS = {
    "backend": serve_backend,
    "agent-lightning": serve_agent_lightning,
    "agentjet": serve_agentjet,
}

if __name__ == "__main__":
    # Rivals print what they like; the answer to our caller is all that may stand there.
    sys.stdout = sys.stderr
    asyncio.run(SERVERS[sys.argv[1]](int(sys.argv[2])))
    os._exit(0)  # their threads would stay
