"""Many episodes with clients that misbehave: is memory flat, does anything hang, is a token lost?

    python benchmarks/gateway_soak.py [--episodes 10000] [--parallel 64]

Each episode makes one call of every kind below over sockets of its own, in an order of its own, to
a scripted engine that samples in pieces. At the end the tokens that the engine gave are compared
with those in the records: `given` must equal `recorded` plus `refused`, which are completions that
were finished in the moment in which their episode ended. `stuck` counts episodes that reached
their deadline.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from astuner.gateway.gateway import Gateway
from astuner.inference.chat import TokenChat
from astuner.rollout.episode import EpisodeSettings, run_attempt
from astuner.rollout.judging import Judging
from astuner.rollout.surroundings import GatewayDoor
from astuner.trajectory.episode import Episode
from astuner.trajectory.recorder import Recorder
from astuner.tuner import ModelTuner
from astuner.types import Completion, Task, WorkflowOutput, WorkflowTask
from astuner.workflow import Workflow

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.gateway_cost import gateway_options, make_chat
from tests.fakes import ScriptedEngine

DEADLINE_SECONDS = 60.0
ANSWER = "word " * 12

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Address = tuple[str, int, str]
"""Host, port, key."""


class Counting(ScriptedEngine):
    """Counts the tokens that it gave, and keeps nothing else."""

    def __init__(self) -> None:
        super().__init__(lambda prompt: ANSWER, pieces=(3,), piece_seconds=0.001)
        self.num_given = 0

    async def generate(self, *args: Any, **options: Any) -> Completion:
        completion = await super().generate(*args, **options)
        self.num_given += len(completion.ids)
        self.seen.clear()
        self.indices.clear()
        return completion


@contextlib.asynccontextmanager
async def connected(address: Address) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection(*address[:2])
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def request(address: Address, number: int, *, stream: bool = False, content: bytes = b"") -> bytes:
    messages = [{"role": "user", "content": f"question {number}"}]
    body = content or json.dumps({"messages": messages, "stream": stream}).encode()
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        f"authorization: Bearer {address[2]}\r\nconnection: close\r\n\r\n"
    ).encode() + body


async def ask(address: Address, sent: bytes) -> bytes:
    async with connected(address) as (reader, writer):
        writer.write(sent)
        return await reader.read()


async def behaves(address: Address, number: int) -> None:
    assert b" 200 " in await ask(address, request(address, number))


async def streams(address: Address, number: int) -> None:
    assert b"[DONE]" in await ask(address, request(address, number, stream=True))


async def retries(address: Address, number: int) -> None:
    """The same call twice at a time: one sample, two answers."""
    sent = request(address, number)
    one, other = await asyncio.gather(ask(address, sent), ask(address, sent))
    assert one.rpartition(b"\r\n\r\n")[2] == other.rpartition(b"\r\n\r\n")[2]


async def leaves(address: Address, number: int) -> None:
    """Disconnects in the middle of a stream."""
    async with connected(address) as (reader, writer):
        writer.write(request(address, number, stream=True))
        await reader.readuntil(b"data: ")


async def leaves_at_once(address: Address, number: int) -> None:
    async with connected(address) as (_, writer):
        writer.write(request(address, number))
        await writer.drain()


async def sends_garbage(address: Address, number: int) -> None:
    garbage = random.Random(number).randbytes(200)
    assert b" 400 " in await ask(address, request(address, number, content=garbage))
    await ask(address, garbage + b"\r\n\r\n")
    await ask((*address[:2], "sk-astuner-1-wrong"), request(address, number))


async def sends_half(address: Address, number: int) -> None:
    async with connected(address) as (_, writer):
        writer.write(request(address, number)[:-10])
        await writer.drain()


async def reads_slowly(address: Address, number: int) -> None:
    async with connected(address) as (reader, writer):
        writer.write(request(address, number, stream=True))
        while await reader.read(200):
            await asyncio.sleep(0.002)


LEFT_BEHIND: set[asyncio.Future] = set()
"""Calls that outlive their episode."""

KINDS = (
    behaves,
    streams,
    retries,
    leaves,
    leaves_at_once,
    sends_garbage,
    sends_half,
    reads_slowly,
)


class Misbehaving(Workflow):
    name: str = "misbehaving"

    async def execute(self, workflow_task: WorkflowTask, model_tuner: ModelTuner) -> WorkflowOutput:
        found = model_tuner.as_oai_baseurl_apikey()
        host, port = found.base_url.removeprefix("http://").removesuffix("/v1").split(":")
        address = (host, int(port), found.api_key)
        number = int(workflow_task.episode_id)
        kinds = random.Random(number).sample(KINDS, len(KINDS))
        for place, kind in enumerate(kinds):
            await kind(address, 100 * number + place)
        if number % 3 == 0:  # goes, and leaves a call behind
            left = asyncio.ensure_future(ask(address, request(address, 100 * number, stream=True)))
            LEFT_BEHIND.add(left)
            left.add_done_callback(LEFT_BEHIND.discard)
            await asyncio.sleep(0.005)
        return WorkflowOutput(reward=1.0)


class Soak:
    """Runs the episodes and adds up what came of them."""

    def __init__(self, gateway: Gateway, engine: Counting, *, num_parallel: int) -> None:
        self.num_recorded = 0
        self.failures: Counter[str] = Counter()
        self._engine = engine
        self._slots = asyncio.Semaphore(num_parallel)
        self._settings = EpisodeSettings(
            make_workflow=Misbehaving,
            make_chat=self._make_chat,
            config=SimpleNamespace(),
            timeout_seconds=DEADLINE_SECONDS,
            surroundings=(GatewayDoor(gateway),),
        )
        self._judging = Judging(None, timeout_seconds=DEADLINE_SECONDS, madness_reward=0.0)

    def _make_chat(self, recorder: Recorder, task: WorkflowTask) -> TokenChat:
        return make_chat(task.episode_id, engine=self._engine, recorder=recorder)

    async def run(self, number: int) -> None:
        async with self._slots:
            attempt = await run_attempt(
                WorkflowTask(
                    task=Task(main_query="?", task_id=str(number)),
                    episode_id=str(number),
                    step=1,
                    attempt=0,
                    is_validation=False,
                ),
                self._settings,
            )
        (episode,) = await self._judging.judge([attempt])
        self._count(episode)

    def _count(self, episode: Episode) -> None:
        self.num_recorded += sum(len(call.completion.ids) for call in episode.calls)
        trained = sum(sequence.num_trained for sequence in episode.sequences)
        assert trained == episode.num_sampled_tokens
        if episode.failure is not None:
            self.failures[episode.failure.message[:100]] += 1


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


async def soak(num_episodes: int, num_parallel: int) -> None:
    engine = Counting()
    started = time.monotonic()
    async with Gateway(gateway_options()) as gateway:
        runs = Soak(gateway, engine, num_parallel=num_parallel)
        step = max(1, num_episodes // 10)
        for first in range(0, num_episodes, step):
            last = min(first + step, num_episodes)
            await asyncio.gather(*(runs.run(number) for number in range(first, last)))
            gc.collect()
            print(
                f"episodes {last:6}  {time.monotonic() - started:6.0f} s  "
                f"resident {resident_mib():7.1f} MiB  tasks {len(asyncio.all_tasks())}",
                flush=True,
            )
    num_refused = engine.num_given - runs.num_recorded
    print(
        f"tokens given {engine.num_given}, recorded {runs.num_recorded}, refused {num_refused}; "
        f"cancelled calls {engine.cancelled}, running {engine.running}"
    )
    num_stuck = sum(n for text, n in runs.failures.items() if "did not finish" in text)
    print(f"failed episodes {runs.failures.total()}, stuck {num_stuck}")
    for message, times in runs.failures.most_common(5):
        print(f"  {times} times: {message}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--parallel", type=int, default=64)
    arguments = parser.parse_args()
    asyncio.run(soak(arguments.episodes, arguments.parallel))


if __name__ == "__main__":
    main()
