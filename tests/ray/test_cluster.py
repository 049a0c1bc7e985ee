"""Which Ray cluster a run enters, what it leaves behind, and what is said where it cannot.

Real heads of Ray on this machine. One that somebody else runs here would be joined: these tests
want a machine without.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from astuner.backbone.cluster.ray_head import heads_of_runs

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


def environment(**more: str) -> dict[str, str]:
    outer = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return {**outer, "PYTHONPATH": str(ROOT), **more}


@contextmanager
def entering(folder: Path, *flags: str, **variables: str):
    """A process that enters a cluster; it is made to leave in the end."""
    command = [sys.executable, "-m", "tests.ray.enter_cluster", str(folder), *flags]
    with subprocess.Popen(
        command,
        env=environment(**variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.communicate("leave\n", timeout=60)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def address_in(process: subprocess.Popen[str]) -> str:
    said, _, address = first_line(process).partition(" ")
    assert said == "in", (said, address, process.communicate("\n"))
    return address


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as client:
        client.settimeout(2)
        return client.connect_ex((host, int(port))) == 0


def is_gone(address: str, *, seconds: float = 40.0) -> bool:
    """Whether nothing of a head is left, after the time that its end may take."""
    deadline = time.monotonic() + seconds
    while (address in heads_of_runs() or answers(address)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return address not in heads_of_runs() and not answers(address)


def refused(folder: Path, *flags: str, **variables: str) -> str:
    with entering(folder, *flags, **variables) as process:
        return first_line(process)


def test_a_head_is_started_where_there_is_none_and_ends_with_the_run(tmp_path):
    with entering(tmp_path, "--with-ray") as run:
        address = address_in(run)
        assert address in heads_of_runs()
    assert is_gone(address)
    assert (tmp_path / "ray_head.log").is_file()


@pytest.mark.parametrize("shown", ["MIG-6a1b2c3d-0000-1111-2222-333344445555", ""])
def test_processes_share_the_one_card_whatever_the_environment_shows(tmp_path, shown):
    card = shown or "0"
    flags = ("--with-ray", "--num-gpus=2", f"--card={card}")
    with entering(tmp_path, *flags, CUDA_VISIBLE_DEVICES=shown) as run:
        address_in(run)
        assert first_line(run) == repr([card] * 3)


def test_a_head_that_ray_refuses_is_told_in_rays_own_words(tmp_path):
    said = refused(tmp_path, "--with-ray", "--num-gpus=2", CUDA_VISIBLE_DEVICES="1")
    assert said.startswith("BackboneError: starting a Ray head at")
    assert "ended with code 1, saying: ValueError: Attempting to start raylet with 2 GPU" in said
    assert "CUDA_VISIBLE_DEVICES contains ['1']" in said


def test_a_head_does_not_outlive_a_run_that_is_killed(tmp_path):
    with entering(tmp_path, "--with-ray") as run:
        address = address_in(run)
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert is_gone(address)


def test_the_head_of_another_run_is_neither_joined_nor_ended(tmp_path):
    with entering(tmp_path / "first", "--with-ray") as first:
        theirs = address_in(first)
        with entering(tmp_path / "second", "--with-ray") as second:
            ours = address_in(second)
            assert ours != theirs
        assert is_gone(ours)
        assert answers(theirs) and theirs in heads_of_runs()
    assert is_gone(theirs)


def test_without_a_flag_or_an_address_it_is_said_how_to_give_one(tmp_path):
    said = refused(tmp_path)
    assert said.startswith("ConfigError") and "--with-ray" in said and "RAY_ADDRESS" in said


def test_a_dead_cluster_in_the_environment_is_named_and_how_to_leave_it(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{free.getsockname()[1]}"
    said = refused(tmp_path, "--with-ray", RAY_ADDRESS=dead)
    assert f"no Ray cluster answers at {dead} (from RAY_ADDRESS)" in said
    assert "unset RAY_ADDRESS" in said


def test_a_server_that_is_not_ray_is_not_waited_for(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    try:
        said = refused(tmp_path, f"--ray-address={address}")
    finally:
        server.shutdown()
        server.server_close()
    assert f"no Ray cluster answers at {address} (from --ray-address)" in said
    assert "mend --ray-address" in said


@pytest.mark.parametrize("written", ["10.0.0.1", "ray://10.0.0.1:10001", "auto:x"])
def test_what_is_no_address_of_a_head_is_refused_with_an_example(tmp_path, written):
    said = refused(tmp_path, f"--ray-address={written}")
    assert "is not the address of a Ray head" in said and "10.0.0.1:6379" in said


@pytest.fixture(scope="module")
def standing_head():
    """A cluster that somebody started by hand on this machine.

    Runs of tests behind this line join it, so these are the last ones.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [*RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1"]
    flags = [f"--port={port}", "--include-dashboard=false", "--disable-usage-stats", "--num-cpus=2"]
    head = subprocess.Popen(
        [*command, *flags],
        env=environment(RAY_AUTH_MODE="disabled"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert head.stdout is not None
    said = ""
    for line in head.stdout:
        said += line
        if "Ray runtime started" in line:
            break
    else:
        raise AssertionError(said)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.communicate(timeout=60)


@pytest.mark.parametrize("way", ["--with-ray", "--ray-address", "RAY_ADDRESS"])
def test_a_cluster_that_stands_is_joined_and_left_standing(standing_head, tmp_path, way):
    flags, variables = [], {"RAY_AUTH_MODE": "disabled"}
    if way == "RAY_ADDRESS":
        variables[way] = standing_head
    else:
        flags.append(way if way == "--with-ray" else f"{way}={standing_head}")
    with entering(tmp_path, *flags, **variables) as run:
        assert address_in(run).rpartition(":")[2] == standing_head.rpartition(":")[2]
        _, said = run.communicate("leave\n", timeout=60)
    assert "Ray: joined" in said and "it stays" in said
    assert answers(standing_head)
