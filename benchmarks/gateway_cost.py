"""What a model call over HTTP costs on top of the engine, against a bare Starlette echo.

    python benchmarks/gateway_cost.py [--clients 1 16 64 256 1000] [--calls 4000]

A server process serves a scripted engine that answers at once; this process plays the clients, one
connection each, with requests that are bytes already, so that hardly anything but the server is
measured. Three servers answer the same requests: `echo` reads the body and answers JSON of the
gateway's size on the same Starlette and uvicorn, `gateway` is ours, and `stream` is ours with
server-sent events. `chat` is `Chat.complete` called in its process without HTTP: the template, the
record and the scripted engine. A client's key changes every CALLS_PER_EPISODE calls, as agents' do.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from astuner.engine.protocol import Sampling
from astuner.gateway.gateway import Gateway, GatewayOptions
from astuner.gateway.sampling import Distribution
from astuner.inference.chat import TokenChat
from astuner.inference.limits import TokenLimits
from astuner.inference.request import ChatRequest
from astuner.inference.template import ChatTemplate
from astuner.trajectory.recorder import Recorder

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.fakes import ByteTokenizer, ScriptedEngine

CALLS_PER_EPISODE = 10
ANSWER = "The answer is in the pages that were found. " * 2
QUESTION = "What do the pages say about rivers in the north? " * 4
ENCODE = json.JSONEncoder(separators=(",", ":")).encode


TEMPLATE = ChatTemplate(ByteTokenizer())
ENGINE = ScriptedEngine(lambda prompt: ANSWER)


def make_chat(
    name: object, *, engine: ScriptedEngine | None = None, recorder: Recorder | None = None
) -> TokenChat:
    return TokenChat(
        engine or ENGINE,
        TEMPLATE,
        recorder or Recorder(),
        episode_id=f"episode{name}",
        sampling=Sampling(
            temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=512, stop_ids=TEMPLATE.stop_ids
        ),
        limits=TokenLimits(
            max_model_len=8192,
            max_prompt_length=4096,
            max_response_length=4096,
            max_response_length_in_one_turn=512,
        ),
        offers_tools=True,
        find_madness=lambda reply: None,
        ends_on_madness=True,
    )


def gateway_options() -> GatewayOptions:
    distribution = Distribution(temperature=1.0, top_p=1.0, top_k=-1)
    return GatewayOptions(
        host="127.0.0.1",
        advertised_host=None,
        port=0,
        max_body_bytes=1 << 20,
        max_waiting_calls=4096,
        client_sampling="refuse",
        model_name="scripted",
        training=distribution,
        validation=distribution,
    )


# server process


async def serve_gateway(num_episodes: int) -> None:
    async with Gateway(gateway_options()) as gateway:
        doors = [
            gateway.open(make_chat(number), seconds=3600, is_validation=False)
            for number in range(num_episodes)
        ]
        addresses = [door.address(agent_name="agent", target_tag="tag") for door in doors]
        keys = [address.api_key for address in addresses]
        await _announce({"address": addresses[0].base_url, "keys": keys})


async def serve_echo(num_episodes: int) -> None:
    import socket

    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def echo(request: Request) -> JSONResponse:
        body = await request.json()
        return JSONResponse({"padding": "x" * 420, "model": body["model"]})

    app = Starlette(routes=[Route("/v1/chat/completions", echo, methods=["POST"])])
    config = uvicorn.Config(app, access_log=False, log_config=None, lifespan="off", ws="none")
    with socket.socket(proto=socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(4096)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        port = listening.getsockname()[1]
        await _announce({"address": f"http://127.0.0.1:{port}/v1", "keys": ["k"] * num_episodes})
        server.should_exit = True
        await serving


async def _announce(found: dict) -> None:
    """Tell the client process, and serve until it closes our input."""
    print(json.dumps(found), flush=True)
    started = time.process_time()
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(time.process_time() - started), flush=True)


async def serve_chat(num_calls: int) -> None:
    """No server: calls of the chat path one after the other, timed."""
    chats = [make_chat(number) for number in range(num_calls // CALLS_PER_EPISODE + 1)]
    started = time.process_time()
    for number in range(num_calls):
        messages = [{"role": "user", "content": f"{QUESTION} {number}"}]
        await chats[number // CALLS_PER_EPISODE].complete(ChatRequest(messages=messages))
    print(json.dumps({"seconds": time.process_time() - started}), flush=True)


# client process

_NAME_WIDTH = 15
HEADING = (
    f"{'server':{_NAME_WIDTH}} {'clients':>7} {'calls/s':>10} {'p50 ms':>9} {'p99 ms':>9} "
    f"{'CPU ms/call':>12} {'lost':>6}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    seconds: list[float]
    """Of each call."""
    wall_seconds: float
    num_lost: int

    def row(self, name: str, num_clients: int, cpu_seconds: float) -> str:
        ordered = sorted(self.seconds)
        p50, p99 = (ordered[int(len(ordered) * share)] * 1e3 for share in (0.5, 0.99))
        rate = len(ordered) / self.wall_seconds
        cpu = cpu_seconds / len(ordered) * 1e3
        return (
            f"{name:{_NAME_WIDTH}} {num_clients:7} {rate:10.0f} {p50:9.2f} {p99:9.2f} {cpu:12.3f} "
            f"{self.num_lost:6}"
        )


def server(name: str, number: int) -> contextlib.AbstractContextManager[dict]:
    return started([sys.executable, __file__, "--serve", name, "--number", str(number)])


@contextlib.contextmanager
def started(command: list[str], *, environment: dict[str, str] | None = None) -> Iterator[dict]:
    """A server that tells where it is, and at its end the processor time that it took."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.readline())
        yield found
        assert process.stdin is not None
        process.stdin.close()
        found["cpu_seconds"] = float(process.stdout.readline() or 0)
        process.wait(30)


def request_bytes(found: dict, number: int, *, stream: bool) -> bytes:
    episode = number // CALLS_PER_EPISODE
    path = found["paths"][episode] if "paths" in found else "/v1/chat/completions"
    messages = [{"role": "user", "content": f"{QUESTION} {number}"}]
    body = ENCODE({"model": "m", "messages": messages, "stream": stream}).encode()
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        f"content-type: application/json\r\nauthorization: Bearer {found['keys'][episode]}\r\n\r\n"
    ).encode() + body


async def read_answer(reader: asyncio.StreamReader, *, stream: bool) -> bool:
    head = await reader.readuntil(b"\r\n\r\n")
    if stream:
        await reader.readuntil(b"data: [DONE]\n\n")
        await reader.readuntil(b"0\r\n\r\n")
    else:
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
    return head.startswith(b"HTTP/1.1 200")


async def measure(found: dict, num_clients: int, num_calls: int, *, stream: bool) -> Measured:
    host, port = found["address"].removeprefix("http://").removesuffix("/v1").split(":")
    numbers, seconds, num_lost = iter(range(num_calls)), [], 0

    @contextlib.asynccontextmanager
    async def connection() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            writer.close()

    async def client() -> None:
        nonlocal num_lost
        async with connection() as (reader, writer):
            await everybody.wait()
            for number in numbers:
                request = request_bytes(found, number, stream=stream)
                started = time.perf_counter()
                writer.write(request)
                try:
                    num_lost += not await read_answer(reader, stream=stream)
                except (asyncio.IncompleteReadError, ConnectionError):
                    num_lost += 1
                    return
                seconds.append(time.perf_counter() - started)

    everybody = asyncio.Barrier(num_clients)
    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(num_clients)))
    return Measured(seconds=seconds, wall_seconds=time.perf_counter() - began, num_lost=num_lost)


def machine(num_calls: int) -> str:
    return (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {num_calls} calls a row"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64, 256, 1000])
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--serve", choices=["gateway", "echo", "chat"], help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve = {"gateway": serve_gateway, "echo": serve_echo, "chat": serve_chat}
        asyncio.run(serve[arguments.serve](arguments.number))
        return
    print(machine(arguments.calls))
    with server("chat", arguments.calls) as found:
        print(f"chat path alone: CPU {1e3 * found['seconds'] / arguments.calls:.3f} ms/call")
    print(HEADING)
    for num_clients in arguments.clients:
        num_calls = max(arguments.calls, 2 * num_clients)
        for name, stream in (("echo", False), ("gateway", False), ("stream", True)):
            kind = "echo" if name == "echo" else "gateway"
            with server(kind, num_calls // CALLS_PER_EPISODE + 1) as found:
                asyncio.run(measure(found, 1, 20, stream=stream))  # warm
                measured = asyncio.run(measure(found, num_clients, num_calls, stream=stream))
            print(measured.row(name, num_clients, found["cpu_seconds"]), flush=True)


if __name__ == "__main__":
    main()
