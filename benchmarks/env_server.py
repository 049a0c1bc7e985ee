"""How fast is the environment server, and does it lose, leak or repeat anything in an hour's load?

    python benchmarks/env_server.py [--instances 1000] [--soak-seconds 60] [--requests 2000]

First an echo environment at full speed, by eight clients over connections of their own. Then the
soak: an hour of episodes in a minute, times to live and thinking times shortened likewise. One
instance in twenty crashes, exits, raises or hangs in a step, one in ten steps is sent twice at a
time or again on another connection after the client hung up, one client in thirty vanishes. Each
act is written to a ledger by the environment itself. Exits with 1 if an episode did not end as it
should, if an act is missing or stands there twice, or if a process or an open file is left.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from astuner.env_service.server.beside import server_beside
from astuner.env_service.server.world import ServerSettings, World

NUM_CLIENTS = 8
NUM_STEPS = 10
HANG_SECONDS = 3.0
"""The deadline of a step; a busy machine keeps it."""
TTL_SECONDS = 10.0
CODES = {
    "raise": "environment_raised",
    "exit": "environment_died",
    "kill": "environment_died",
    "hang": "environment_hung",
}


class LedgerWorld:
    """Echoes, does the trouble that it is asked for, and writes each act to a file."""

    def __init__(self, *, ledger: str | None = None) -> None:
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND) if ledger else None
        self._name = ""
        self._num_acts = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._name = (options or {})["task_id"]
        return "begin", {}

    def step(self, action: str) -> Any:
        if self._ledger is not None:
            os.write(self._ledger, f"{self._name} {self._num_acts}\n".encode())
        self._num_acts += 1
        if action == "raise":
            raise ValueError("as it was asked")
        if action == "exit":
            os._exit(1)
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "hang":
            time.sleep(1000)
        return action, 1.0, action == "end", False, {}

    def evaluate(self, *, sparse: bool = False) -> float:
        return float(self._num_acts)


class Line:
    """One connection to the server; reads no more of HTTP than it needs."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None

    async def send(self, route: str, **body: Any) -> None:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        content = json.dumps(body).encode()
        head = f"POST {route} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(content)}\r\n\r\n"
        self._writer.write(head.encode() + content)
        await self._writer.drain()

    async def ask(self, route: str, **body: Any) -> dict[str, Any]:
        await self.send(route, **body)
        assert self._reader is not None
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        return json.loads(await self._reader.readexactly(length))

    def hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._writer = self._reader = None


def step_body(name: str, index: int, text: str) -> dict[str, Any]:
    return {
        "instance_id": name,
        "messages": {"role": "assistant", "content": text},
        "params": {"step_index": index},
    }


# speed


async def timed(
    what: str, num_requests: int, port: int, ask: Callable[[Line, int, int], Awaitable[Any]]
) -> None:
    """Ask so many times, shared by the clients, and print the rate and the latency."""
    seconds: list[float] = []

    async def client(number: int) -> None:
        line = Line(port)
        for turn in range(num_requests // NUM_CLIENTS):
            began = time.perf_counter()
            answer = await ask(line, number, turn)
            seconds.append(time.perf_counter() - began)
            assert answer["success"], answer
        line.hang_up()

    began = time.perf_counter()
    await asyncio.gather(*map(client, range(NUM_CLIENTS)))
    rate = len(seconds) / (time.perf_counter() - began)
    median, worst = statistics.median(seconds), statistics.quantiles(seconds, n=100)[-1]
    print(f"{what:22} {rate:8.0f} {median * 1000:10.1f} {worst * 1000:8.1f}", flush=True)


async def measure_speed(port: int, *, num_requests: int, capacity: int) -> None:
    def create(line: Line, client: int, turn: int) -> Awaitable[Any]:
        return line.ask(
            "/create", env_type="ledger", task_id="a", instance_id=f"speed-{client}-{turn}"
        )

    def step(line: Line, client: int, turn: int) -> Awaitable[Any]:
        return line.ask("/step", **step_body(f"speed-{client}-0", turn, "on"))

    def evaluate(line: Line, client: int, turn: int) -> Awaitable[Any]:
        return line.ask("/evaluate", instance_id=f"speed-{client}-0")

    def release(line: Line, client: int, turn: int) -> Awaitable[Any]:
        return line.ask("/release", instance_id=f"speed-{client}-{turn}")

    print(f"{'':22} {'a second':>8} {'median ms':>10} {'p99 ms':>8}")
    num_instances = min(num_requests, capacity)
    await timed("instances created", num_instances, port, create)
    await timed("steps", num_requests, port, step)
    await timed("evaluations", num_requests, port, evaluate)
    await timed("instances released", num_instances, port, release)


# soak


class Episodes:
    """Plays episodes as clients do, and counts how they ended."""

    def __init__(self, port: int, *, soak_seconds: float) -> None:
        self._port = port
        self._soak_seconds = soak_seconds
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.acts: Counter[str] = Counter()
        """That must stand in the ledger, "instance step"."""

    async def play(self, number: int) -> None:
        rng = random.Random(number)
        name = f"soak-{number}"
        trouble = list(CODES)[number // 20 % len(CODES)] if number % 20 == 0 else None
        vanishes = trouble is None and number % 30 == 1
        fatal = rng.randrange(NUM_STEPS) if trouble else None
        await asyncio.sleep(rng.random() * self._soak_seconds)
        line = Line(self._port)
        try:
            outcome = await self._steps(line, rng, name, fatal, trouble, vanishes=vanishes)
        except (AssertionError, OSError, asyncio.IncompleteReadError) as error:
            self.wrong.append(f"{name}: {type(error).__name__} {error}")
            outcome = "wrong"
        finally:
            line.hang_up()
        self.outcomes[outcome] += 1

    async def _steps(
        self,
        line: Line,
        rng: random.Random,
        name: str,
        fatal: int | None,
        trouble: str | None,
        *,
        vanishes: bool,
    ) -> str:
        asked = {"env_type": "ledger", "task_id": name, "instance_id": name}
        made = await line.ask("/create", **asked)
        while not made["success"] and made["error"]["retriable"]:
            await asyncio.sleep(0.2)
            made = await line.ask("/create", **asked)
        assert made["success"], made
        for index in range(NUM_STEPS):
            # Ten to thirty seconds of an hour.
            await asyncio.sleep(self._soak_seconds / 3600 * rng.uniform(10, 30))
            text = "end" if index == NUM_STEPS - 1 else "on"
            if index == fatal:
                assert trouble is not None
                text = trouble
            self.acts[f"{name} {index}"] += 1
            answer = await self._step(line, rng, step_body(name, index, text))
            if index == fatal:
                assert not answer["success"], answer
                assert answer["error"]["code"] == CODES[text], answer
                assert not answer["error"]["retriable"], answer
                return f"failed by {trouble}, as asked"
            assert answer["success"] and answer["data"]["info"]["step_index"] == index, answer
            if vanishes and index == NUM_STEPS // 2:
                return "left without a word"
        value = await line.ask("/evaluate", instance_id=name)
        assert value["data"] == NUM_STEPS, value
        released = await line.ask("/release", instance_id=name)
        assert released["success"], released
        return "played to the end"

    async def _step(self, line: Line, rng: random.Random, body: dict[str, Any]) -> dict[str, Any]:
        way = rng.random()
        if way < 0.05:  # twice at a time
            other = Line(self._port)
            one, two = await asyncio.gather(line.ask("/step", **body), other.ask("/step", **body))
            other.hang_up()
            assert one == two, (one, two)
            return one
        if way < 0.1:  # hung up while it was under way, and sent again
            await line.send("/step", **body)
            await asyncio.sleep(rng.random() * 0.02)
            line.hang_up()
        return await line.ask("/step", **body)


def children(process: int) -> list[int]:
    return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def num_processes(process: int) -> int:
    """It and all below it."""
    return 1 + sum(map(num_processes, children(process)))


def num_files(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


def resident_mib(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 2**20


async def soak(
    port: int, server: int, ledger: Path, *, num_instances: int, soak_seconds: float
) -> list[str]:
    """What was violated."""
    before = (num_processes(server), num_files(server), resident_mib(server))
    episodes = Episodes(port, soak_seconds=soak_seconds)
    began = time.perf_counter()
    peak = 0

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, num_processes(server))
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*map(episodes.play, range(num_instances)))
    watching.cancel()
    await asyncio.sleep(TTL_SECONDS * 1.5)  # for those whose clients left
    line = Line(port)
    names = [f"soak-{number}" for number in range(num_instances)]
    alive = (await line.ask("/heartbeat", instance_ids=names))["data"]["alive"]
    line.hang_up()
    await asyncio.sleep(1)
    after = (num_processes(server), num_files(server), resident_mib(server))
    acted = Counter(ledger.read_text().splitlines())
    acted = Counter({act: times for act, times in acted.items() if act.startswith("soak-")})
    print(f"\nsoak: {num_instances} instances in {time.perf_counter() - began:.0f} s")
    for outcome, times in sorted(episodes.outcomes.items()):
        print(f"  {times:6} {outcome}")
    print(f"  {acted.total():6} acts in the ledger, {episodes.acts.total()} asked for")
    print(f"         processes {before[0]} before, {peak} at most, {after[0]} after")
    print(f"         open files of the server {before[1]} before, {after[1]} after")
    print(f"         memory of the server {before[2]:.1f} MiB before, {after[2]:.1f} MiB after")
    violated = list(episodes.wrong)
    violated += [f"{name} still lives" for name in alive]
    violated += [f"acted {times} times: {act}" for act, times in acted.items() if times > 1]
    violated += [f"never acted: {act}" for act in episodes.acts if act not in acted]
    violated += [f"acted unasked: {act}" for act in acted if act not in episodes.acts]
    violated += [f"processes: {before[0]} became {after[0]}"] * (after[0] > before[0])
    violated += [f"open files: {before[1]} became {after[1]}"] * (after[1] > before[1])
    return violated


async def run(arguments: argparse.Namespace) -> int:
    with tempfile.NamedTemporaryFile() as ledger:
        world = World(
            name="ledger", target=f"{__file__}->LedgerWorld", options={"ledger": ledger.name}
        )
        settings = ServerSettings(
            port=0,
            capacity=256,
            ttl_seconds=TTL_SECONDS,
            step_timeout_seconds=HANG_SECONDS,
            num_spares=4,
        )
        async with server_beside([world], settings) as address:
            port = int(address.rpartition(":")[2])
            (server,) = children(os.getpid())
            capacity = settings.capacity - settings.capacity % NUM_CLIENTS
            await measure_speed(port, num_requests=arguments.requests, capacity=capacity)
            violated = await soak(
                port,
                server,
                Path(ledger.name),
                num_instances=arguments.instances,
                soak_seconds=arguments.soak_seconds,
            )
    for what in violated[:20]:
        print(f"VIOLATED {what}")
    print(f"{len(violated)} violations")
    return 1 if violated else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--soak-seconds", type=float, default=60.0)
    parser.add_argument("--requests", type=int, default=2000)
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
