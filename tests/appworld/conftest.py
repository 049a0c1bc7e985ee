"""The small world, and a server of it in a process of its own, once for all tests here."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILDER = Path(__file__).parent / "tiny_world.py"
_START_SECONDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server of the small world that runs."""

    url: str
    root: Path
    """Of the world."""
    scratch: Path
    """Where the server has its temporary files made."""


@pytest.fixture(scope="session")
def appworld_python() -> Path:
    named = os.environ.get("APPWORLD_PYTHON")
    python = Path(named) if named else ROOT / ".venv-appworld" / "bin" / "python"
    if not python.is_file():
        pytest.fail(f"{python} is not there; these tests need AppWorld: make test-appworld")
    return python


@pytest.fixture(scope="session")
def tiny_world(appworld_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("appworld") / "tiny"
    subprocess.run([appworld_python, str(BUILDER), str(root)], check=True, timeout=_START_SECONDS)
    return root


@pytest.fixture(scope="session")
def served(
    appworld_python: Path, tiny_world: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    scratch = tmp_path_factory.mktemp("scratch")
    options = [f"root={tiny_world}", "timeout_seconds=20", "max_output_chars=2000"]
    with serving(appworld_python, options, scratch=scratch) as url:
        yield Served(url=url, root=tiny_world, scratch=scratch)


def wait_until_no_world_is_open(served: Served) -> None:
    """A process that was released is reaped a little later."""
    deadline = time.monotonic() + _START_SECONDS
    while has_open_world(served):
        assert time.monotonic() < deadline, "a world that was released is still there"
        time.sleep(0.05)


def has_open_world(served: Served) -> bool:
    return any(served.scratch.rglob("simple_note.jsonl"))


@contextmanager
def serving(python: Path, options: list[str], *, scratch: Path) -> Iterator[str]:
    """`astuner env serve appworld`, and its address."""
    command = [sys.executable, "-m", "astuner", "env", "serve", "appworld", "--port", "0"]
    command += ["--python", str(python), *(part for o in options for part in ("--option", o))]
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(scratch)}
    )
    assert server.stdout is not None
    # A server that never says where it is would hold up the tests.
    late = threading.Timer(_START_SECONDS, server.kill)
    late.start()
    try:
        line = server.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, f"the server said {line!r}, and ended with {server.poll()}"
        late.cancel()
        yield found[0]
    finally:
        late.cancel()
        server.terminate()
        server.wait(_START_SECONDS)
        server.stdout.close()
