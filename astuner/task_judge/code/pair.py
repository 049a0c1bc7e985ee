"""Runs one test against code, each in a sandbox of its own, with a line for calls between them.

Who holds the test has nothing of the code, and the code's sandbox nothing of the test: neither its
text nor what it expects nor the token that its outcome is told behind.
"""

import asyncio
import json
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from astuner.sandbox import Sandbox, SandboxResult

_FOLDER = "astuner/task_judge/code"
_MOST_BYTES = 32 * 1024 * 1024
"""That one side may send the other in a test."""
_CHUNK_BYTES = 64 * 1024
_EXTRA_SECONDS = 2.0
"""The code's process is there for the whole of its test."""
UTF8 = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"}

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True, kw_only=True)
class TestOutcome:
    """How one test went."""

    __test__ = False  # pytest would take it for a test
    outcome: Literal["passed", "failed", "broken", "untold"]
    """broken: the test cannot be run; untold: its process ended without a word."""
    reason: str


@dataclass(slots=True)
class _Exchange:
    """Where the two sides of one test meet. Owned by the test's run."""

    secrets: dict[str, str] = field(
        default_factory=lambda: {name: secrets.token_hex(16) for name in ("test", "code")}
    )
    door: asyncio.Server | None = None
    """Shut once both sides are in, before the code is loaded."""
    streams: dict[str, Stream] = field(default_factory=dict)
    is_closed: bool = False
    passing: list[asyncio.Task[None]] = field(default_factory=list)

    async def met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            said = await reader.readline()
        except (OSError, ValueError):
            said = b""
        sides = [name for name, word in self.secrets.items() if said == f'"{word}"\n'.encode()]
        if self.is_closed or not sides or sides[0] in self.streams:
            writer.close()
            return
        self.streams[sides[0]] = (reader, writer)
        if len(self.streams) == 2:
            if self.door is not None:
                self.door.close()
            (test_in, test_out), (code_in, code_out) = self.streams["test"], self.streams["code"]
            self.passing += [
                asyncio.create_task(self._pass_on(test_in, code_out)),
                asyncio.create_task(self._pass_on(code_in, test_out)),
            ]

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = _MOST_BYTES
        try:
            while left > 0 and (chunk := await reader.read(_CHUNK_BYTES)):
                left -= len(chunk)
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """Both sides then hear the end."""
        self.is_closed = True
        for _, writer in self.streams.values():
            writer.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _MeetingPlace:
    base_url: str


async def run_pair(
    sandbox: Sandbox,
    *,
    code: str,
    test: str,
    setup: str,
    entry_point: str | None,
    timeout_seconds: float,
) -> TestOutcome:
    """Raises SandboxError where one of the sandboxes cannot be had."""
    exchange, token = _Exchange(), secrets.token_hex(16)
    exchange.door = server = await asyncio.start_server(exchange.met, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    asked = {
        "setup": setup,
        "test": test,
        "entry_point": entry_point,
        "token": token,
        "port": port,
        "secret": exchange.secrets["test"],
    }
    link = {"port": port, "secret": exchange.secrets["code"]}

    async def side(name: str, files: dict[str, str], seconds: float) -> SandboxResult:
        return await sandbox.run(
            [sys.executable, "-m", f"astuner.task_judge.code.{name}"],
            files={**_shipped(name), **files},
            environment=UTF8,
            timeout_seconds=seconds,
            gateway=_MeetingPlace(base_url=f"http://127.0.0.1:{port}"),
        )

    code_files = {"solution.py": code, "link.json": json.dumps(link)}
    code_run = asyncio.create_task(side("code_side", code_files, timeout_seconds + _EXTRA_SECONDS))
    code_run.add_done_callback(lambda _: exchange.close())
    try:
        test_files = {"test.json": json.dumps(asked)}
        told = await side("checking_side", test_files, timeout_seconds)
    finally:
        was_done = code_run.done()
        exchange.close()
        server.close()
        code_run.cancel()
        ended = await asyncio.gather(code_run, *exchange.passing, return_exceptions=True)
    if was_done and isinstance(ended[0], Exception):
        raise ended[0]
    return _outcome(told, token, timeout_seconds, ended[0] if was_done else None)


def _shipped(side: str) -> dict[str, str]:
    here = Path(__file__).parent
    files = {f"{_FOLDER}/{name}.py": (here / f"{name}.py").read_text() for name in (side, "wire")}
    parents = ("astuner", "astuner/task_judge", _FOLDER)
    return {**files, **{f"{parent}/__init__.py": "" for parent in parents}}


def _outcome(told: SandboxResult, token: str, timeout_seconds: float, code: object) -> TestOutcome:
    for line in told.stdout.splitlines():
        if line.startswith(token):
            found = json.loads(line.removeprefix(token))
            limit = code.ended_by if isinstance(code, SandboxResult) else None
            reason = found["reason"] + (f" (its limit of {limit})" if limit else "")
            return TestOutcome(outcome=found["outcome"], reason=reason)
    if told.is_timed_out:
        reason = f"longer than {timeout_seconds:g} s"
        return TestOutcome(outcome="failed", reason=reason)
    reason = f"exit code {told.exit_code}, ended by {told.ended_by}: {told.stderr[-200:]}"
    return TestOutcome(outcome="untold", reason=reason)
