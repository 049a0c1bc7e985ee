"""Real servers with SQLite, each in a process of its own for all tests here."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import pytest

from tests.llm_server import serving
from tests.tracing.shop import answered

ROOT = Path(__file__).parents[2]
START_SECONDS = 240
"""They make their databases first, and import hundreds of packages."""
END_SECONDS = 30


@pytest.fixture(scope="session")
def recorders_python() -> Path:
    """The interpreter that has the recorders, and Phoenix."""
    return _python_of(".venv-tracing")


@pytest.fixture(scope="module")
def model_url() -> Iterator[str]:
    """Of the model of the shop."""
    with serving(answered) as model:
        yield model.base_url


@pytest.fixture(scope="session")
def phoenix(recorders_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Phoenix."""
    folder = tmp_path_factory.mktemp("phoenix")
    port, grpc_port = _free_ports(2)
    settings = {
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(grpc_port),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    command = [recorders_python, "-m", "phoenix.server.main", "serve"]
    with _server(command, folder, settings, f"http://127.0.0.1:{port}", "/healthz") as url:
        yield url


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an MLflow."""
    folder = tmp_path_factory.mktemp("mlflow")
    [port] = _free_ports(1)
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [_python_of(".venv-mlflow"), "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with _server(command, folder, settings, f"http://127.0.0.1:{port}", "/health") as url:
        yield url


def _python_of(environment: str) -> Path:
    python = ROOT / environment / "bin" / "python"
    if not python.is_file():
        pytest.fail(f"{python} is not there; these tests need it: make test-tracing")
    return python


def _free_ports(number: int) -> list[int]:
    """Neither server takes a socket that listens already, or port 0."""
    with contextlib.ExitStack() as stack:
        opened = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [one.getsockname()[1] for one in opened]


@contextlib.contextmanager
def _server(
    command: Sequence[str | Path], folder: Path, settings: Mapping[str, str], url: str, path: str
) -> Iterator[str]:
    """The URL of a server that answers at this path, with all its processes; what it says goes to
    `server.log` in the folder."""
    log = folder / "server.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env={**os.environ, **settings},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            _wait_until_ready(process, url + path, log)
            yield url
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            with contextlib.suppress(ProcessLookupError):  # all have ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(END_SECONDS)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(url):
        ended, is_late = process.poll(), time.monotonic() > deadline
        if ended is not None or is_late:
            why = f"took more than {START_SECONDS} s" if ended is None else f"ended with {ended}"
            pytest.fail(f"{url}: the server {why}; it said:\n{log.read_text()[-4_000:]}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False).is_success
    return False
