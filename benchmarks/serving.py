"""Requests a second and times to tokens of `astuner serve`, beside other servers in the same run.

    python benchmarks/serving.py MODEL [--clients 1 4 16 64] [--calls 32] [--max-tokens 64]
    python benchmarks/serving.py MODEL --servers astuner transformers vllm \\
        --vllm-python .venv-vllm/bin/python
    python benchmarks/serving.py MODEL --flat 20000
    python benchmarks/serving.py --masking

`transformers` is `transformers serve` (pip install 'transformers[serving]'), `transformers+batch`
the same with --continuous-batching, `vllm` vLLM's server. All get the same prompts, greedy, with
the same most tokens, as streams of chat completions; one server at a time is up. `ttft` is the time
to the first piece of a reply, `gap` the mean time between its tokens behind it, both as medians
over the calls, and p95 of the first. `cpu` is the processor time of the server for each token,
which other work on the machine changes least. Clients run in a process of their own, on the same
cores.

With tools, three functions are offered, to a copy of the model where its chat template knows none.
--flat asks many calls of a few tokens and shows the memory of the server's process at each tenth.
--masking shows what finding personal data and secrets costs.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

_START_SECONDS = 600.0
_CALL_SECONDS = 900.0
_WORDS = ["rivers", "bridges", "engines", "gardens", "letters", "planets", "markets", "windows"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name.replace('_', ' ')} by its name",
            "parameters": {
                "type": "object",
                "properties": {"name": {"type": "string", "description": "what is meant"}},
                "required": ["name"],
            },
        },
    }
    for name in ("find_page", "read_page", "count_words")
]
_TRANSFORMERS = "from transformers.cli.transformers import main; main()"
_TOOL_TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\n# Tools\\n\\nYou may call one or more functions.\\n\\n\
You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}
{%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}
{{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and \
arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, \
"arguments": <args-json-object>}\\n</tool_call><|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- else %}{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}{% set call = call.function or call %}
{{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
{{- (call.arguments | tojson) + '}\\n</tool_call>' }}{% endfor %}{% endif %}
{{- '<|im_end|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""Of a model with ChatML and none for tools: calls in the way of Hermes."""
HEADING = (
    f"{'server':<14} {'tools':>5} {'clients':>7} {'requests/s':>10} {'tokens/s':>9} {'ttft ms':>8} "
    f"{'p95 ms':>8} {'gap ms':>7} {'cpu ms':>7} {'failed':>6}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A server and how it is started."""

    name: str
    command: tuple[str, ...]
    """With {model} and {port} to be filled in."""
    tells_usage: dict[str, Any]
    """What a body has to say for the stream to end with the number of tokens."""
    environment: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One streamed reply."""

    seconds_to_first: float
    seconds: float
    num_tokens: int

    @property
    def gap(self) -> float | None:
        more = self.num_tokens - 1
        return (self.seconds - self.seconds_to_first) / more if more > 0 else None


def rivals(arguments: argparse.Namespace) -> Iterator[Rival]:
    usage = {"stream_options": {"include_usage": True}}
    place = ("--port", "{port}")
    for name in arguments.servers:
        if name in ("astuner", "astuner+record"):
            command = (sys.executable, "-m", "astuner", "serve", "{model}", *place)
            if name == "astuner+record":
                command = (*command, "--record", "{folder}")
            yield Rival(name=name, command=command, tells_usage=usage, environment={})
        elif name in ("transformers", "transformers+batch"):
            command = (sys.executable, "-c", _TRANSFORMERS, "serve", "{model}", *place)
            if name == "transformers+batch":
                command = (*command, "--continuous-batching")
                if arguments.cache_share:
                    share = str(arguments.cache_share)
                    command = (*command, "--cb-max-memory-percent", share)
            # It refuses stream_options, and tells the usage anyway.
            yield Rival(name=name, command=command, tells_usage={}, environment={})
        else:
            tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
            server = (arguments.vllm_python, "-m", "vllm.entrypoints.openai.api_server")
            length = ("--max-model-len", "2048")
            yield Rival(
                name=name,
                command=(*server, "--model", "{model}", *place, *length, *tools),
                tells_usage=usage,
                environment={"VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": ""},
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers."""

    address: str
    model: str
    pid: int


@contextlib.contextmanager
def running(rival: Rival, model: str) -> Iterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        fields = {"model": model, "port": str(port), "folder": f"{folder}/kept"}
        command = [part.format(**fields) for part in rival.command]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", **rival.environment}
        with (
            log.open("wb") as file,
            subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process,
        ):
            try:
                address = f"http://127.0.0.1:{port}"
                yield Running(
                    address=address,
                    model=_first_model(address, process, log) or model,
                    pid=process.pid,
                )
            finally:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()


def _first_model(address: str, process: subprocess.Popen[bytes], log: Path) -> str:
    """What clients have to call it; waits until it answers."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            for path in ("/readyz", "/health"):
                with contextlib.suppress(urllib.error.HTTPError):
                    urllib.request.urlopen(f"{address}{path}", timeout=5).read()
                    return _listed(address)
        time.sleep(0.5)
    end = log.read_text(errors="replace")[-2_000:]
    raise SystemExit(f"the server did not answer:\n{end}")


def _listed(address: str) -> str:
    """Empty where models are called as they were given: transformers lists those of its cache, and
    fails where there is none."""
    try:
        with urllib.request.urlopen(f"{address}/v1/models", timeout=60) as answer:
            models = json.load(answer)["data"]
    except urllib.error.HTTPError:
        return ""
    return models[0]["id"] if models else ""


def body_of(server: Running, number: int, *, max_tokens: int, has_tools: bool) -> dict[str, Any]:
    topic = _WORDS[number % len(_WORDS)]
    question = f"Write a long story, number {number}, about {topic} in the north. " * 2
    body: dict[str, Any] = {
        "model": server.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }
    return {**body, "tools": TOOLS} if has_tools else body


async def ask(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Call:
    """Raises httpx.HTTPError for a call that is refused or cut off."""
    stream = _Stream()
    async with client.stream("POST", url, json=body) as answer:
        if answer.is_error:
            text = (await answer.aread()).decode(errors="replace")
            raise httpx.HTTPError(f"{answer.status_code}: {text[:300]}")
        async for piece in answer.aiter_raw():
            stream.take(piece)
    return stream.call()


class _Stream:
    """What one client sees. Between the first token and the end it reads no JSON: one process of
    clients would take longer for that than a server for writing it."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first = self._last = 0.0
        self._num_events = 0
        self._end = b""
        """What came last, as far as it is still to be read."""

    def take(self, piece: bytes) -> None:
        self._last = time.perf_counter()
        self._num_events += piece.count(b"data: {")
        self._end = (self._end + piece)[-20_000:]
        if not self._first and any(map(_says_something, self._events())):
            self._first = self._last

    def call(self) -> Call:
        events = self._events()
        if errors := [event["error"] for event in events if "error" in event]:
            raise httpx.HTTPError(f"in the stream: {errors[0]}")
        usages = [event["usage"] for event in events if event.get("usage")]
        return Call(
            seconds_to_first=(self._first or self._last) - self._began,
            seconds=self._last - self._began,
            num_tokens=usages[-1]["completion_tokens"] if usages else self._num_events,
        )

    def _events(self) -> list[dict[str, Any]]:
        """Those that are whole."""
        lines = self._end.split(b"\n")[:-1]
        whole = [line.strip() for line in lines if line.startswith(b"data: {")]
        return [json.loads(line.removeprefix(b"data: ")) for line in whole]


def _says_something(event: dict[str, Any]) -> bool:
    return any(
        choice["delta"].get(key)
        for choice in event.get("choices", ())
        for key in ("content", "tool_calls", "reasoning_content")
    )


async def measure(
    server: Running,
    rival: Rival,
    num_clients: int,
    num_calls: int,
    *,
    max_tokens: int,
    has_tools: bool,
) -> tuple[list[Call], list[str], float]:
    """The calls, why others failed, and the seconds for all."""
    numbers, calls, failures = iter(range(num_calls)), list[Call](), list[str]()
    url = f"{server.address}/v1/chat/completions"

    async def one_client() -> None:
        async with httpx.AsyncClient(timeout=_CALL_SECONDS) as client:
            for number in numbers:
                body = body_of(server, number, max_tokens=max_tokens, has_tools=has_tools)
                try:
                    calls.append(await ask(client, url, {**body, **rival.tells_usage}))
                except httpx.HTTPError as error:
                    failures.append(str(error) or type(error).__name__)

    began = time.perf_counter()
    await asyncio.gather(*(one_client() for _ in range(num_clients)))
    return calls, failures, time.perf_counter() - began


def row(
    name: str,
    has_tools: bool,
    num_clients: int,
    calls: Sequence[Call],
    num_failed: int,
    wall: float,
    cpu_seconds: float,
) -> str:
    firsts = sorted(call.seconds_to_first * 1e3 for call in calls)
    gaps = [gap * 1e3 for call in calls if (gap := call.gap) is not None]
    p95 = firsts[min(len(firsts) - 1, int(len(firsts) * 0.95))]
    num_tokens = sum(call.num_tokens for call in calls)
    return (
        f"{name:<14} {'yes' if has_tools else 'no':>5} {num_clients:7} {len(calls) / wall:10.2f} "
        f"{num_tokens / wall:9.1f} {statistics.median(firsts):8.0f} {p95:8.0f} "
        f"{statistics.median(gaps or [0.0]):7.1f} {cpu_seconds / max(1, num_tokens) * 1e3:7.1f} "
        f"{num_failed:6}"
    )


@contextlib.contextmanager
def taking_tools(model: str) -> Iterator[str]:
    """The model, or a copy of it whose template knows tools, where it is one of ChatML."""
    folder = Path(model)
    written = "".join(
        path.read_text()
        for path in map(folder.joinpath, ("chat_template.jinja", "tokenizer_config.json"))
        if path.is_file()
    )
    if "tools" in written or "<|im_start|>" not in written:
        yield model
        return
    with tempfile.TemporaryDirectory() as copy:
        for path in folder.iterdir():
            Path(copy, path.name).symlink_to(path.resolve())
        template = Path(copy, "chat_template.jinja")
        template.unlink(missing_ok=True)
        template.write_text(_TOOL_TEMPLATE)
        print("a copy of the model: its own chat template knows no tools")
        yield copy


def compare(arguments: argparse.Namespace) -> None:
    print(_machine())
    with (
        taking_tools(arguments.model)
        if arguments.tools != "no"
        else contextlib.nullcontext(arguments.model) as model
    ):
        _compare_all(arguments, model)


def _compare_all(arguments: argparse.Namespace, model: str) -> None:
    print(HEADING)
    for rival in rivals(arguments):
        with running(rival, model) as server:
            for has_tools in {"no": (False,), "yes": (True,), "both": (False, True)}[
                arguments.tools
            ]:
                _compare_one(rival, server, arguments, has_tools=has_tools)


def _compare_one(
    rival: Rival, server: Running, arguments: argparse.Namespace, *, has_tools: bool
) -> None:
    most = arguments.max_tokens
    asyncio.run(measure(server, rival, 2, 4, max_tokens=most, has_tools=has_tools))  # warm
    for num_clients in arguments.clients:
        num_calls = max(arguments.calls, num_clients)
        before = _cpu_seconds(server.pid)
        calls, failures, wall = asyncio.run(
            measure(server, rival, num_clients, num_calls, max_tokens=most, has_tools=has_tools)
        )
        if not calls:
            print(f"{rival.name:<14} answers nothing: {failures[0]}", flush=True)
            return
        cpu_seconds = _cpu_seconds(server.pid) - before
        name, num_failed = rival.name, len(failures)
        print(row(name, has_tools, num_clients, calls, num_failed, wall, cpu_seconds), flush=True)


def show_memory(arguments: argparse.Namespace) -> None:
    """At each tenth of many short calls of eight clients, one in eight of them streamed."""
    print(_machine())
    for rival in rivals(arguments):
        with running(rival, arguments.model) as server:
            print(f"{rival.name}: resident memory of the server's process, {arguments.flat} calls")
            began = time.perf_counter()
            for tenth in range(11):
                rate = arguments.flat / 10 * tenth / (time.perf_counter() - began)
                print(f"{tenth * 10:4} % {_resident_mb(server.pid):8.1f} MB {rate:8.1f}/s")
                sys.stdout.flush()
                if tenth < 10:
                    asyncio.run(
                        measure(
                            *(server, rival, 8, arguments.flat // 10),
                            max_tokens=4,
                            has_tools=False,
                        )
                    )


def _cpu_seconds(pid: int) -> float:
    """That a process and all below it have taken."""
    times, parents = dict[int, int](), dict[int, int]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            number = int(path.parent.name)
            parents[number], times[number] = int(fields[1]), int(fields[11]) + int(fields[12])

    def is_below(number: int) -> bool:
        while number in parents and number != pid:
            number = parents[number]
        return number == pid

    return sum(times[one] for one in times if is_below(one)) / os.sysconf("SC_CLK_TCK")


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


def show_masking() -> None:
    from astuner.traces.private_text import PrivateMask

    text = Path(__file__).parent.parent.joinpath("docs/gateway.md").read_text()
    print(_machine())
    for num_characters in (200, 1_000, 4_000, 16_000):
        part = (text * 3)[:num_characters]
        fresh, again = PrivateMask(), PrivateMask()
        again.mask(part)
        times = {
            "new": min(_seconds(fresh, f"{number} {part}") for number in range(5)),
            "known": min(_seconds(again, part) for _ in range(5)),
        }
        shown = ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in times.items())
        print(f"masking {num_characters:6} characters: {shown}")


def _seconds(mask: Any, text: str) -> float:
    began = time.process_time()
    mask.mask(text)
    return time.process_time() - began


def _machine() -> str:
    return (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", help="a folder that transformers can load")
    known = ["astuner", "astuner+record", "transformers", "transformers+batch", "vllm"]
    both = ["astuner", "transformers+batch"]
    parser.add_argument("--servers", nargs="+", choices=known, default=both)
    parser.add_argument("--vllm-python", help="a Python that has vLLM", default=sys.executable)
    parser.add_argument(
        "--cache-share",
        type=float,
        default=0.1,
        help="of the free memory, for keys and values of transformers+batch: by its own default a "
        "small machine without a GPU runs out; 0 leaves it that default (default: 0.1)",
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--calls", type=int, default=32, help="of each row, at least")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--tools", choices=["no", "yes", "both"], default="both")
    parser.add_argument("--flat", type=int, metavar="N", help="memory over N calls instead")
    parser.add_argument("--masking", action="store_true", help="the cost of masking instead")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are ended
    if arguments.masking:
        show_masking()
        return
    if arguments.model is None:
        parser.error("name a MODEL")
    if arguments.flat:
        show_memory(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
