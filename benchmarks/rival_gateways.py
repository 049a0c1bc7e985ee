"""Starts the gateway of another tuner for `gateway_rivals.py`, in an environment that has it.

    python benchmarks/rival_gateways.py lightning-1.0 NUMBER_OF_EPISODES

Prints where it is as JSON, serves until its input is closed, and prints the processor time that it
and its child processes took. Needs nothing of astuner. What rivals print goes to standard error.
"""

import asyncio
import base64
import json
import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

ANSWER = "The answer is in the pages that were found. " * 2
INTERCHANGE = "tuner_lib/weight_tuner/experimental/as_oai_model_server.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processor_seconds(children: Sequence[int]) -> float:
    """Of this process and of its children, while they live."""
    return time.process_time() + sum(_seconds_of(child) for child in children)


def _seconds_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def announce(
    port: int, *, keys: list[str], paths: list[str], children: Sequence[int] = ()
) -> None:
    """Tell the client process, and serve until it closes our input."""
    found = {"address": f"http://127.0.0.1:{port}/v1", "keys": keys, "paths": paths}
    print(json.dumps(found), file=sys.__stdout__, flush=True)
    started = processor_seconds(children)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(processor_seconds(children) - started), file=sys.__stdout__, flush=True)


def completion(*, logprobs: bool = False) -> dict[str, Any]:
    """As vLLM answers it with `return_token_ids`: 200 tokens of prompt, 88 sampled."""
    chosen = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "prompt_token_ids": [1] * 200,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": ANSWER},
                "finish_reason": "stop",
                "logprobs": {"content": [chosen] * 88} if logprobs else None,
                "token_ids": [1] * 88,
            }
        ],
        "usage": {"prompt_tokens": 200, "completion_tokens": 88, "total_tokens": 288},
    }


async def serve_app(app: Any, port: int, **settings: Any) -> tuple[Any, asyncio.Task]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, **settings))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    return server, serving


async def serve_backend(num_episodes: int) -> None:
    """An engine's server that answers at once, behind which Agent-Lightning's proxies stand."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    answers = {
        logprobs: json.dumps(completion(logprobs=logprobs)).encode() for logprobs in (False, True)
    }

    async def chat(request: Request) -> Response:
        logprobs = bool((await request.json()).get("logprobs"))
        return Response(answers[logprobs], media_type="application/json")

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])
    port = free_port()
    server, serving = await serve_app(app, port, log_level="error", access_log=False)
    paths = ["/v1/chat/completions"] * num_episodes
    await announce(port, keys=["k"] * num_episodes, paths=paths)
    server.should_exit = True
    await serving


async def serve_lightning_0(num_episodes: int) -> None:
    """`LLMProxy` as a trainer of Agent-Lightning before 1.0 starts it: in a process of its own.

    Its store is served to it, and each episode is a rollout.
    """
    from agentlightning import LLMProxy
    from agentlightning.store.client_server import LightningStoreServer
    from agentlightning.store.memory import InMemoryLightningStore

    store = LightningStoreServer(
        InMemoryLightningStore(thread_safe=True), host="127.0.0.1", port=free_port()
    )
    await store.start()
    port = free_port()
    proxy = LLMProxy(
        port=port,
        host="127.0.0.1",
        store=store,
        launch_mode="mp",
        model_list=[{"model_name": "m", "litellm_params": _lightning_backend()}],
    )
    await proxy.start()
    children = [child.pid for child in multiprocessing.active_children() if child.pid]
    await announce(
        port,
        keys=["k"] * num_episodes,
        paths=await _lightning_paths(store, num_episodes),
        children=children,
    )
    await proxy.stop()
    await store.stop()


def _lightning_backend() -> dict[str, str]:
    return {"model": "hosted_vllm/m", "api_base": os.environ["BACKEND"], "api_key": "k"}


async def _lightning_paths(store: Any, num_episodes: int) -> list[str]:
    rollouts = [await store.start_rollout(input="question") for _ in range(num_episodes)]
    return [
        f"/rollout/{rollout.rollout_id}/attempt/{rollout.attempt.attempt_id}/v1/chat/completions"
        for rollout in rollouts
    ]


async def serve_lightning_1(num_episodes: int) -> None:
    """The server of Agent-Lightning since 1.0, with what its `agl-server` gives to uvicorn."""
    import agentlightning.config
    import httpx
    from agentlightning.server.app import create_app
    from omegaconf import OmegaConf

    config = OmegaConf.load(Path(agentlightning.config.__file__).parent / "server.yaml")
    config.default_proxy.model_name = "m"
    port = free_port()
    server, serving = await serve_app(create_app(config), port, timeout_keep_alive=120)
    names = [f"episode{number}" for number in range(num_episodes)]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api") as client:
        models = [{"model": "m", "endpoint": os.environ["BACKEND"]}]
        rollouts = [{"input": "question", "rollout_id": name} for name in names]
        (await client.post("/models", json=models)).raise_for_status()
        (await client.post("/rollouts", json=rollouts)).raise_for_status()
    paths = [
        f"/proxy/rollout/{name}/attempt/0/mode/train/openai/v1/chat/completions" for name in names
    ]
    await announce(port, keys=["k"] * num_episodes, paths=paths)
    server.should_exit = True
    await serving


async def serve_agentjet(num_episodes: int) -> None:
    """The interchange server of AgentJet 0.0.1, each episode with a listener that answers at once.

    The module alone is loaded: the package imports its trainers.
    """
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
                    said = {**completion(), "id": call.timeline_uuid}
                    await connection.send(pickle.dumps(ChatCompletion.model_validate(said)))
        except OSError:  # the server is not there yet
            await asyncio.sleep(0.1)


async def serve_agentjet_git(num_episodes: int) -> None:
    """The interchange server of AgentJet's repository of January 2026, which talks over ZeroMQ.

    It is a process of its own; AGENTJET names a folder with its `ajet`.
    """
    import zmq
    import zmq.asyncio
    from openai.types.chat.chat_completion import ChatCompletion

    interchange = _interchange_module()
    port = free_port()
    os.environ["AJET_DAT_INTERCHANGE_PORT"] = str(port)
    interchange.start_interchange_server(_agentjet_settings())
    server = multiprocessing.active_children()[0]
    context = zmq.asyncio.Context()
    folder = tempfile.mkdtemp()

    async def listen(address: str) -> None:
        """In place of AgentJet's InterchangeClient, whose tracker needs the trainer."""
        replying = context.socket(zmq.REP)
        replying.bind(address)
        while True:
            call = interchange.InterchangeCompletionRequest(
                **json.loads(await replying.recv_string())
            )
            said = ChatCompletion.model_validate({**completion(), "id": call.timeline_uuid})
            await replying.send_string(said.model_dump_json())

    names = [f"episode{number}" for number in range(num_episodes)]
    addresses = [f"ipc://{folder}/{name}.sock" for name in names]
    listeners = [asyncio.create_task(listen(address)) for address in addresses]
    await announce(
        port,
        keys=[_agentjet_key(*each) for each in zip(names, addresses, strict=True)],
        paths=["/v1/chat/completions"] * num_episodes,
        children=[server.pid] if server.pid else [],
    )
    for listener in listeners:
        listener.cancel()
    server.terminate()
    server.join(10)


def _agentjet_settings() -> Any:
    """What AgentJet's default configuration says of the server."""
    server = types.SimpleNamespace(
        num_fastapi_process=2, max_fastapi_threads=128, interchange_server_port="auto"
    )
    ajet = types.SimpleNamespace(experiment_dir=tempfile.mkdtemp(), interchange_server=server)
    return types.SimpleNamespace(ajet=ajet)


def _interchange_module() -> Any:
    """Loaded without the package around it, which imports the trainers.

    It asks vLLM for the class of a request, in whose place an open model stands.
    """
    from pydantic import ConfigDict, create_model

    for name in ("vllm", "vllm.entrypoints", "vllm.entrypoints.openai"):
        sys.modules[name] = types.ModuleType(name)
    protocol = types.ModuleType("vllm.entrypoints.openai.protocol")
    request = create_model(
        "ChatCompletionRequest",
        __config__=ConfigDict(extra="allow"),
        __module__=protocol.__name__,  # it is pickled
    )
    vars(protocol)[request.__name__] = request
    sys.modules[protocol.__name__] = protocol
    spec = spec_from_file_location("as_oai_model_server", _agentjet_folder() / INTERCHANGE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _agentjet_folder() -> Path:
    if "AGENTJET" in os.environ:
        return Path(os.environ["AGENTJET"]) / "ajet"
    package = find_spec("ajet")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent


def _agentjet_key(episode: str, address: str | None = None) -> str:
    named = {
        "agent_name": "agent",
        "target_tag": "tag",
        "episode_uuid": episode,
        "episode_address": address,
    }
    encoded = base64.b64encode(json.dumps(named).encode()).decode()
    return f"sk-ajet-{encoded}" if address else encoded


SERVERS = {
    "backend": serve_backend,
    "lightning-0.3": serve_lightning_0,
    "lightning-1.0": serve_lightning_1,
    "agentjet-0.0.1": serve_agentjet,
    "agentjet-git": serve_agentjet_git,
}

if __name__ == "__main__":
    # Rivals print what they like; the answer to our caller is all that may stand there.
    sys.stdout = sys.stderr
    asyncio.run(SERVERS[sys.argv[1]](int(sys.argv[2])))
    os._exit(0)  # their threads would stay
