"""Code of a model in its sandbox: what it is given, what it may not do, and what is left of it."""

import asyncio
import os
import resource
import shutil
import site
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import agentscope.tool as tools  # before user code of other tests puts its folders on the path
import pytest

from astuner.config.load import load_mapping, packaged_section
from astuner.config.sections.sandbox import SandboxSettings
from astuner.errors import ConfigError, SandboxError
from astuner.sandbox import Sandbox, SandboxResult, open_sandbox, python_tool
from astuner.sandbox.kinds import try_kind
from astuner.sandbox.scratch import write_files

REPOSITORY = Path(__file__).parents[1]


def settings(**changes: Any) -> SandboxSettings:
    return SandboxSettings.model_validate(packaged_section("sandbox") | changes)


def skip_unless_permitted(kind: Any) -> None:
    tried = try_kind(kind, os.environ["PATH"])
    if tried.confinement is None:
        pytest.skip(f"{kind} is not permitted here: {tried.reason}")


def opened(kind: Any, **changes: Any) -> Sandbox:
    skip_unless_permitted(kind)
    return open_sandbox(settings(kind=kind, require=kind, **changes))


@pytest.fixture(params=["bubblewrap", "landlock"])
def kind(request: pytest.FixtureRequest) -> str:
    skip_unless_permitted(request.param)
    return request.param


@pytest.fixture
def sandbox(kind: str) -> Sandbox:
    return opened(kind)


def ran(sandbox: Sandbox, command: Any, **given: Any) -> SandboxResult:
    return asyncio.run(sandbox.run(command, **given))


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def running(argument: str) -> list[int]:
    """Processes that have the argument; read from outside, so that nothing of them can hide."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if argument.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def is_running(argument: str) -> bool:
    return running(argument) != []


def a_duration() -> str:
    """Seconds to sleep that no other process sleeps."""
    return f"77.{time.monotonic_ns()}"


# What a command gets and gives.


def test_a_command_gives_its_code_and_what_it_wrote(sandbox: Sandbox) -> None:
    result = ran(sandbox, "echo to stdout; echo to stderr >&2; exit 3")
    assert (result.exit_code, result.stdout, result.stderr) == (3, "to stdout\n", "to stderr\n")
    assert (result.is_timed_out, result.is_cut, result.ended_by) == (False, False, None)


def test_arguments_are_not_read_by_a_shell(sandbox: Sandbox) -> None:
    assert ran(sandbox, ["echo", "$HOME; *"]).stdout == "$HOME; *\n"


def test_the_python_inside_is_ours_with_its_packages(sandbox: Sandbox) -> None:
    code = "import sys; print(sys.executable, sys.prefix); print(*sys.path[1:])"
    found, path = ran(sandbox, [Path(sys.executable).name, "-c", code]).stdout.splitlines()
    assert found == f"{sys.executable} {sys.prefix}"
    assert "site-packages" in path or "dist-packages" in path


def test_a_python_below_the_temporary_folder_is_seen_too(kind: str, tmp_path: Path) -> None:
    venv = tmp_path / "checkout/venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(os.path.realpath(sys.executable))
    (venv / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\n")
    code = (
        "import asyncio, sys\n"
        "from tests.test_sandbox import opened\n"
        f"result = asyncio.run(opened({kind!r}).run(['python', '-ISc', 'print(2 + 3)']))\n"
        "print(sys.prefix, result.stdout, result.stderr)\n"
    )
    paths = os.pathsep.join([str(REPOSITORY), *site.getsitepackages()])
    done = subprocess.run(
        [venv / "bin/python", "-c", code],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(venv), "5"], done.stderr


@pytest.mark.parametrize("place", ["/tmp/deep/er/app", "/dev/shm/deep/er/app", "/deep/er/app"])
def test_a_mount_may_stand_deep_in_a_folder_of_temporary_files(place: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("seen")
    tmp_path.chmod(0o755)
    sandbox = opened("bubblewrap")
    assert ran(sandbox, ["cat", f"{place}/data"], read_only={place: tmp_path}).stdout == "seen"
    written = ran(sandbox, "echo on > more; cat more", mounts={place: tmp_path}, folder=place)
    assert written.stdout == "on\n", written.stderr


def test_files_stand_in_the_folder_and_may_be_written(sandbox: Sandbox) -> None:
    files = {"main.py": "print(1)\n", "data/deep/raw": b"\0\xff"}
    result = ran(sandbox, "cat main.py; wc -c < data/deep/raw; echo 2 >> main.py; ls", files=files)
    assert result.stdout == "print(1)\n2\ndata\nmain.py\n"
    replaced = ran(sandbox, "mv main.py other; rm data/deep/raw other; ls -R", files=files)
    assert "main.py" not in replaced.stdout + replaced.stderr
    assert replaced.exit_code == 0


def test_a_run_sees_nothing_of_an_earlier_one(sandbox: Sandbox) -> None:
    left = "echo left > here; echo left > $TMPDIR/there"
    assert ran(sandbox, f"{left}; cat here").stdout == "left\n"
    assert ran(sandbox, "cat here $TMPDIR/there").stdout == ""


def test_environment_is_what_was_asked_for(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    result = ran(sandbox, "env", environment={"MINE": "a\nb"})
    assert "MINE=a\nb" in result.stdout
    assert "sk-secret" not in result.stdout


def test_code_that_the_environment_brings_is_loaded_by_the_command_only() -> None:
    environment = {"LD_PRELOAD": "/none.so", "LD_LIBRARY_PATH": "/mine"}
    result = ran(opened("bubblewrap"), "echo $LD_LIBRARY_PATH", environment=environment)
    assert result.stdout == "/mine\n"
    assert result.stderr.count("cannot be preloaded") == 1


def test_output_may_be_binary_or_nothing_or_without_an_end_of_line(sandbox: Sandbox) -> None:
    assert ran(sandbox, "printf 'a\\377b'").stdout == "a\N{REPLACEMENT CHARACTER}b"
    assert ran(sandbox, "true").stdout == ""


def test_a_command_that_closes_its_output_is_awaited(sandbox: Sandbox) -> None:
    result = ran(sandbox, "echo before; exec >&- 2>&-; sleep 0.3; exit 5")
    assert (result.exit_code, result.stdout) == (5, "before\n")


@pytest.mark.parametrize("command", [["no-such-program"], ["/nowhere/python3", "x"], "no-such"])
def test_a_command_that_is_not_there_is_a_result(sandbox: Sandbox, command: Any) -> None:
    result = ran(sandbox, command)
    assert result.exit_code == 127
    assert "no-such" in result.stderr or "/nowhere" in result.stderr


def test_a_signal_that_ends_a_command_is_its_code(sandbox: Sandbox) -> None:
    assert ran(sandbox, "kill -SEGV $$").exit_code == 128 + 11


# What cannot be asked for.


@pytest.mark.parametrize("name", ["../x", "/etc/x", "", ".", "a/../../x", "a//b", "a/", "./x"])
def test_a_file_that_is_not_below_the_folder_is_refused(name: str) -> None:
    with pytest.raises(SandboxError, match="no name inside"):
        ran(opened("none"), "true", files={name: ""})


@pytest.mark.parametrize("command", [[], [""], "a\0b", ["a", "b\0"], "\ud800", ["x" * 200_000]])
def test_a_command_that_no_program_can_be_given_is_refused(command: Any) -> None:
    with pytest.raises(SandboxError, match="command"):
        ran(opened("none"), command)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_file_whose_name_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(SandboxError, match="files: "):
        ran(opened("none"), "true", files={name: ""})


def test_files_beyond_the_disk_are_refused() -> None:
    with pytest.raises(SandboxError, match=r"disk_mb"):
        ran(opened("none"), "true", files={"large": bytes(100_000_000)})
    with pytest.raises(SandboxError, match="mount"):
        ran(opened("none"), "true", files={str(n): "" for n in range(300)})


@pytest.mark.parametrize("place", ["app", "/a/../b", "/", "/app/", "/a\0"])
def test_a_mount_stands_at_a_plain_place(place: str, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="no place inside"):
        ran(opened("none"), "true", mounts={place: tmp_path})


def test_a_mount_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="nowhere is no folder"):
        ran(opened("bubblewrap"), "true", mounts={"/app": tmp_path / "nowhere"})


@pytest.mark.parametrize("place", ["/usr", "/bin", "/usr/bin"])
def test_a_mount_in_place_of_the_system_is_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="would hide programs of the system"):
        ran(opened("bubblewrap"), "true", mounts={place: tmp_path})


def test_what_bwrap_itself_refuses_is_an_error_and_no_result(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="could not begin"):
        ran(opened("bubblewrap"), "true", mounts={"/usr/here": tmp_path})


# Folders of the host.


def test_a_mounted_folder_is_written_to_and_a_read_only_one_is_not(tmp_path: Path) -> None:
    app, tests = tmp_path / "app", tmp_path / "tests"
    for folder in (app, tests):
        folder.mkdir(mode=0o755)
    (tests / "test.sh").write_text("echo tested\n")
    result = ran(
        opened("bubblewrap"),
        "sh /tests/test.sh > out; echo x > /tests/mine",
        mounts={"/app": app},
        read_only={"/tests": tests},
        folder="/app",
    )
    assert (app / "out").read_text() == "tested\n"
    assert "Read-only" in result.stderr
    assert [file.name for file in tests.iterdir()] == ["test.sh"]


def test_a_folder_that_the_code_could_not_read_is_named(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("this process is not root")
    (tmp_path / "tests").mkdir(mode=0o700)
    with pytest.raises(SandboxError, match=r"chmod -R o\+rX"):
        ran(opened("bubblewrap"), "true", read_only={"/tests": tmp_path / "tests"})


def test_what_root_mounts_is_left_to_nobody_who_is_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("this process is not root")
    command = "cp /bin/true shell; chmod 4755 shell; mkdir folder"
    ran(opened("bubblewrap"), command, mounts={"/app": tmp_path}, folder="/app")
    assert {(tmp_path / name).stat().st_uid for name in ("shell", "folder")} & {0} == set()


@pytest.mark.parametrize("folder", ["/app/src", "/tmp/src", "/home/sandbox/a/b", "/home/other"])
def test_a_folder_of_ones_own_is_made(folder: str) -> None:
    result = ran(opened("bubblewrap"), "pwd; cat x; touch y", files={"x": "1"}, folder=folder)
    assert (result.stdout, result.exit_code) == (f"{folder}\n1", 0)


@pytest.mark.parametrize("place", ["/tmp/app", "/home/sandbox/app", "/var/app", "/mnt"])
def test_a_mount_may_stand_below_what_is_scratch(place: str, tmp_path: Path) -> None:
    result = ran(opened("bubblewrap"), f"echo 1 > {place}/out", mounts={place: tmp_path})
    assert (result.stderr, (tmp_path / "out").read_text()) == ("", "1\n")


def test_folders_in_the_scratch_folder_may_lie_deep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dig = "import os\nfor _ in range(1010): os.mkdir('d'); os.chdir('d')"  # Python follows 1000
    assert ran(opened("landlock"), python(dig)).exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_files_replace_links_that_code_left_in_a_mounted_folder(tmp_path: Path) -> None:
    outside, app = tmp_path / "outside", tmp_path / "app"
    app.mkdir()
    outside.mkdir()
    (outside / "file").write_text("kept")
    (app / "main.py").symlink_to(outside / "file")
    (app / "src").symlink_to(outside)
    given = {"mounts": {"/app": app}, "folder": "/app"}
    result = ran(opened("bubblewrap"), "cat main.py", files={"main.py": "new"}, **given)
    assert result.stdout == "new"
    with pytest.raises(SandboxError, match="src"):
        ran(opened("bubblewrap"), "true", files={"src/file": "new"}, **given)
    assert (outside / "file").read_text() == "kept"


def test_no_file_is_written_through_a_pipe_or_a_second_name(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    os.link(tmp_path / "kept", tmp_path / "second")
    os.mkfifo(tmp_path / "pipe")
    write_files(tmp_path, "", {"second": b"new", "pipe": b"new"})
    assert (tmp_path / "kept").read_text() == "kept"
    assert (tmp_path / "pipe").read_text() == "new"


def test_without_bubblewrap_a_folder_stands_where_it_is(tmp_path: Path) -> None:
    weak = opened("landlock")
    with pytest.raises(SandboxError, match="install bubblewrap"):
        ran(weak, "true", mounts={"/app": tmp_path})
    with pytest.raises(SandboxError, match="install that"):
        ran(weak, "true", folder="/app")
    place = str(tmp_path.resolve())
    ran(weak, "echo 1 > out", mounts={place: Path(place)}, folder=place)
    assert (tmp_path / "out").read_text() == "1\n"


# What it may not do.


def test_files_of_this_user_cannot_be_read(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    tmp_path.chmod(0o755)
    for path in (f"{tmp_path}/key", f"/proc/1/root{tmp_path}/key", "/etc/shadow"):
        result = ran(sandbox, ["cat", path])
        assert (result.stdout, result.exit_code) == ("", 1)
    assert ran(sandbox, ["ls", str(tmp_path)]).stdout == ""


def test_the_system_and_the_interpreter_cannot_be_written(sandbox: Sandbox) -> None:
    for folder in ("/usr", "/usr/bin", "/etc", sys.prefix, sys.base_prefix, "/"):
        result = ran(sandbox, ["touch", f"{folder}/astuner-sandbox-test"])
        assert result.exit_code != 0
        assert not Path(folder, "astuner-sandbox-test").exists()


CALLS = {
    "ptrace": "ptrace(0, 0, 0, 0)",
    "keyctl": "syscall({'x86_64': 250, 'aarch64': 219}[os.uname().machine], 0, -3, 0)",
    "unshare of the user": "unshare(0x10000000)",
    "unshare of the files": "unshare(0x20000)",
    "mount": "mount(b'x', b'/tmp', b'tmpfs', 0, 0)",
    "typing into a terminal": "ioctl(0, 0x5412, b'x')",
    "typing with high bits": "ioctl(0, ctypes.c_ulong(0x100005412), b'x')",
    "becoming root": "setuid(0)",
    "the machine around a virtual one": "socket(40, 1, 0)",
    "memory of no process": "memfd_create(b'x', 0)",
    "memory of System V": "shmget(0, 4096, 0o1600)",
    "a setuid file": "creat(b'x', 0o4755)",
    "a setuid file by open": "open(b'y', 0o101, 0o4755)",
    "making one setuid": "chmod(b'.', 0o4777)",
    "making an open one setuid": "fchmod(0, 0o6777)",
}


def test_calls_of_the_kernel_that_reach_further_are_refused(sandbox: Sandbox) -> None:
    code = "import ctypes, errno, os; libc = ctypes.CDLL(None, use_errno=True)\n" + "\n".join(
        f"ctypes.set_errno(0); done = libc.{call}; "
        "print(done, errno.errorcode.get(ctypes.get_errno()))"
        for call in CALLS.values()
    )
    result = ran(sandbox, python(code))
    for call, found in zip(CALLS, result.stdout.splitlines(), strict=True):
        if call == "becoming root" and sandbox.kind == "landlock":
            assert found in {"-1 EPERM", "0 None"}  # where it never was another user
        else:
            assert found in {"-1 EPERM", "-1 EINVAL"}, call
            assert "EPERM" in found or call == "becoming root", call


def test_what_programs_need_of_the_same_calls_is_left_to_them(sandbox: Sandbox) -> None:
    code = (
        "import os, resource, socket\n"
        "os.close(os.open('x', os.O_CREAT | os.O_WRONLY, 0o755)); os.chmod('x', 0o2755)\n"
        "os.close(os.open('x', os.O_RDONLY, 0o4755))\n"
        "os.sched_setaffinity(0, os.sched_getaffinity(0)); os.nice(1)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50)); socket.socketpair()\n"
        "print(oct(os.stat('x').st_mode))"
    )
    result = ran(sandbox, python(code))
    assert (result.stdout, result.stderr) == ("0o102755\n", "")


def test_two_runs_cannot_reach_each_other(sandbox: Sandbox) -> None:
    duration = a_duration()
    attack = (
        "import os, resource\n"
        "def tried(attempt, *given):\n"
        "    try: attempt(*given)\n"
        "    except OSError: return\n"
        "    print(attempt.__name__)\n"
        "tried(resource.prlimit, {pid}, resource.RLIMIT_CPU, (0, 0))\n"
        "tried(os.sched_setaffinity, {pid}, [0])\n"
        "tried(os.setpriority, os.PRIO_PROCESS, {pid}, 19)\n"
        "tried(os.sched_setscheduler, {pid}, os.SCHED_BATCH, os.sched_param(0))\n"
        "tried(os.listdir, '/proc/{pid}/cwd')\n"
        "tried(open, '/proc/{pid}/environ')\n"
        "tried(open, '/proc/{pid}/mem', 'r+b')\n"
        "tried(os.kill, {pid}, 9)\n"
    )

    async def both() -> tuple[SandboxResult, SandboxResult]:
        other = asyncio.create_task(sandbox.run(f"sleep {duration} & sleep 0.6; kill $!; echo on"))
        while not (found := running(duration)):
            await asyncio.sleep(0.01)
        return await sandbox.run(python(attack.format(pid=found[0]))), await other

    attacker, attacked = asyncio.run(both())
    assert (attacker.exit_code, attacker.stdout, attacked.stdout) == (0, "", "on\n")


def test_a_process_outside_cannot_be_signalled(sandbox: Sandbox) -> None:
    with subprocess.Popen(["sleep", a_duration()]) as other:
        try:
            result = ran(sandbox, f"kill -0 {other.pid} && echo reached; kill -9 $PPID; echo on")
            assert result.stdout == "on\n"
            assert other.poll() is None
        finally:
            other.kill()


@pytest.fixture
def server() -> Iterator[int]:
    """A port of this machine that answers 'hello' and what it was sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"hello " + connection.recv(4096))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


CONNECT = (
    "import socket; s = socket.create_connection(({host!r}, {port})); s.sendall(b'you'); "
    "print(s.recv(99).decode())"
)


@dataclass
class Door:
    base_url: str


def test_there_is_no_network(sandbox: Sandbox, server: int) -> None:
    result = ran(sandbox, python(CONNECT.format(host="127.0.0.1", port=server)))
    assert "hello" not in result.stdout
    assert result.exit_code == 1


def test_of_a_gateway_its_port_is_reached_and_no_other(sandbox: Sandbox, server: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        codes = [
            CONNECT.format(host="127.0.0.1", port=port) for port in (server, other.getsockname()[1])
        ]
        door = Door(f"http://127.0.0.1:{server}/v1")
        reached, refused = (ran(sandbox, python(code), gateway=door) for code in codes)
    assert reached.stdout == "hello you\n"
    assert refused.exit_code == 1


def test_a_gateway_is_reached_by_its_name(server: int) -> None:
    door = Door(f"http://localhost:{server}/v1")
    code = CONNECT.format(host="localhost", port=server)
    assert ran(opened("bubblewrap"), python(code), gateway=door).stdout == "hello you\n"


def test_a_gateway_answers_many_at_once_and_closes_with_the_run(sandbox: Sandbox) -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for line in reader:
            writer.write(line)
        seen.append(await reader.read())
        writer.close()

    async def run() -> SandboxResult:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            code = (
                "import socket\n"
                f"found = [socket.create_connection(('127.0.0.1', {port})) for _ in range(20)]\n"
                "for n, s in enumerate(found): s.sendall(b'%d\\n' % n)\n"
                "print(*(s.recv(9).decode().strip() for s in found))"
            )
            result = await sandbox.run(python(code), gateway=Door(f"http://127.0.0.1:{port}/v1"))
            while len(seen) < 20:
                await asyncio.sleep(0.01)
            return result

    assert asyncio.run(run()).stdout.split() == [str(n) for n in range(20)]


BESIDE_CONNECT = """
import socket
def tried(name, attempt):
    try: attempt()
    except OSError: return
    print(name)
tried("by what is sent first", lambda: socket.socket().sendto(b"x", 0x20000000, {address}))
tried("in a message", lambda: socket.socket().sendmsg([b"x"], [], 0x20000000, {address}))
if {is_shared}: tried("at a port that the kernel chooses", lambda: socket.socket().listen())
pair = lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0]
tried("by one of a pair", lambda: pair().sendto(b"x", {path!r}))
"""


def test_ways_to_connect_that_are_not_called_so_are_closed(
    sandbox: Sandbox, server: int, tmp_path: Path
) -> None:
    path = str(tmp_path / "log")
    tmp_path.chmod(0o755)
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log,
    ):
        log.bind(path)
        Path(path).chmod(0o666)
        is_shared = sandbox.kind != "bubblewrap"
        code = BESIDE_CONNECT.format(address=other.getsockname(), path=path, is_shared=is_shared)
        result = ran(sandbox, python(code), gateway=Door(f"http://127.0.0.1:{server}/v1"))
    assert (result.stdout, result.stderr) == ("", "")


def test_a_gateway_is_there_after_many_connections_that_were_broken_off(server: int) -> None:
    code = (
        "import socket, struct\n"
        "def connect():\n"
        f"    return socket.create_connection(('127.0.0.1', {server}), 5)\n"
        "for _ in range(80):\n"
        "    s = connect()\n"
        "    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))\n"
        "    s.close()\n"
        "s = connect(); s.sendall(b'you'); print(s.recv(99).decode())"
    )
    door = Door(f"http://127.0.0.1:{server}/v1")
    assert ran(opened("bubblewrap"), python(code), gateway=door).stdout == "hello you\n"


def test_a_connection_that_a_gateway_does_not_read_from_ends_with_the_run() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as slow:
            port = slow.getsockname()[1]
            code = (
                "import socket\n"
                f"s = socket.create_connection(('127.0.0.1', {port})); s.settimeout(0.3)\n"
                "try:\n"
                "    while True: s.send(bytes(100_000))\n"
                "except OSError: pass"
            )
            before = len(os.listdir("/proc/self/fd"))
            door = Door(f"http://127.0.0.1:{port}/v1")
            result = await opened("bubblewrap").run(python(code), gateway=door)
            assert (result.exit_code, result.stderr) == (0, "")
            await asyncio.sleep(0)  # a transport closes its socket in the turn after
            assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(run())


@pytest.mark.parametrize(
    "url",
    ["https://x:8000/v1", "http://x/v1", "http://10.0.0.1:8000", "http://127.0.0.2:8000", "x"],
)
def test_a_gateway_that_cannot_stand_inside_is_refused(url: str) -> None:
    with pytest.raises(SandboxError, match="gateway"):
        ran(opened("none"), "true", gateway=Door(url))


# Limits.


def test_memory_is_limited(kind: str) -> None:
    result = ran(opened(kind, memory_mb=100), python("x = bytearray(200_000_000); print(1)"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "MemoryError" in result.stderr


def test_memory_of_many_processes_is_counted_together(kind: str) -> None:
    code = (
        "import os, time\n"
        "for _ in range(5):\n"
        "    if os.fork() == 0:\n"
        "        x = b'x' * 50_000_000\n"
        "        time.sleep(9)\n"
        "time.sleep(9)"
    )
    assert ran(opened(kind, memory_mb=120), python(code)).ended_by == "memory"


def test_time_of_the_processor_is_limited(kind: str) -> None:
    result = ran(opened(kind, cpu_seconds=0.3), "while :; do :; done")
    assert (result.exit_code, result.ended_by) == (None, "cpu")


def test_the_number_of_processes_is_limited(kind: str) -> None:
    code = (
        "import os, time\n"
        "n = 0\n"
        "try:\n"
        "    while n < 60:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(9)\n"
        "        n += 1\n"
        "except OSError as error:\n"
        "    print(n <= 20, error.strerror, flush=True)\n"
        "    os._exit(0)\n"
        "time.sleep(9)"
    )
    result = ran(opened(kind, num_processes=20), python(code))
    assert result.stdout == "True Resource temporarily unavailable\n"


def test_output_is_cut_and_a_flood_of_it_ended(kind: str) -> None:
    small = opened(kind, output_kb=1)
    result = ran(small, python("print('x' * 3000, end='')"))
    assert (result.exit_code, result.stdout, result.is_cut) == (0, "x" * 1024, True)
    flood = ran(small, "yes")
    assert (flood.ended_by, len(flood.stdout), flood.is_cut) == ("output", 1024, True)


def test_a_file_cannot_grow_beyond_the_disk(kind: str) -> None:
    command = "head -c 3000000 /dev/zero > x; wc -c < x"
    result = ran(opened(kind, disk_mb=1), command)
    assert int(result.stdout) <= 1024 * 1024


def test_many_files_cannot_grow_beyond_the_disk() -> None:
    command = "for n in 1 2 3 4 5; do head -c 400000 /dev/zero > $n; done; cat ? | wc -c"
    result = ran(opened("bubblewrap", disk_mb=1), command)
    assert int(result.stdout) <= 1024 * 1024


@pytest.mark.parametrize("place", ["/dev", "/dev/shm", "/", "/etc", "/run", "/home", "/var"])
def test_nothing_unbounded_can_be_written(place: str) -> None:
    command = f"head -c 3000000 /dev/zero > {place}/x; wc -c < {place}/x"
    result = ran(opened("bubblewrap", disk_mb=1), command)
    assert int(result.stdout or 0) <= 1024 * 1024


# The end.


def test_code_that_ignores_signals_is_ended_in_time(sandbox: Sandbox) -> None:
    duration = a_duration()
    command = f"trap '' TERM INT HUP; sleep {duration}; sleep {duration}"
    result = ran(sandbox, command, timeout_seconds=0.3)
    assert (result.exit_code, result.is_timed_out, result.ended_by) == (None, True, "timeout")
    assert not is_running(duration)


def test_what_was_left_behind_ends_with_the_command(sandbox: Sandbox) -> None:
    duration = a_duration()
    result = ran(sandbox, f"(setsid sleep {duration} &) ; setsid -f sleep {duration}; echo done")
    assert result.stdout == "done\n"
    assert not is_running(duration)


def test_a_cancelled_run_is_gone_when_the_cancellation_arrives(sandbox: Sandbox) -> None:
    duration = a_duration()

    async def cancel() -> None:
        task = asyncio.create_task(sandbox.run(f"setsid sleep {duration}"))
        while not is_running(duration):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()  # whoever is in a hurry cancels twice
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not is_running(duration)

    asyncio.run(cancel())


def test_a_run_ends_with_the_process_that_asked_for_it(kind: str, tmp_path: Path) -> None:
    duration = a_duration()
    code = (
        "import asyncio; from tests.test_sandbox import opened; "
        f"asyncio.run(opened({kind!r}).run('setsid sleep {duration}'))"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env=environment)
    with caller:
        while not is_running(duration):
            assert caller.poll() is None
            time.sleep(0.02)
        caller.kill()
    deadline = time.monotonic() + 60
    while is_running(duration) or list(tmp_path.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_is_left_open_or_on_disk(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for command in ("mkdir a; chmod 000 a; chmod 000 .", "true", ["no-such"]):
        ran(sandbox, command, files={"b/c": "1"})
    ran(sandbox, "sleep 9", timeout_seconds=0.1)
    with pytest.raises(SandboxError):
        ran(sandbox, "true", mounts={"/usr/x": Path("/nowhere")})
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
    assert list(tmp_path.iterdir()) == []


def test_a_run_for_which_too_few_files_can_be_opened_leaves_nothing(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    failures: list[str] = []
    with closing(asyncio.new_event_loop()) as loop, all_files_opened() as opened_files:
        while opened_files and len(failures) < 30:
            os.close(opened_files.pop())
            try:
                result = loop.run_until_complete(sandbox.run("echo 1", files={"a": "1"}))
            except SandboxError as error:
                failures.append(str(error))
                continue
            assert result.stdout == "1\n"
            break
    assert len(failures) > 3
    assert len([failure for failure in failures if "Too many open files" in failure]) > 3
    assert list(tmp_path.iterdir()) == []
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


@contextmanager
def all_files_opened() -> Iterator[list[int]]:
    """As many as this process may open, which are few more than it has; some may be closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found: list[int] = []
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 40, hard)
    )
    try:
        with suppress(OSError):
            while True:
                found.append(os.dup(0))
        yield found
    finally:
        for fd in found:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_runs_go_side_by_side_in_any_loop_and_thread(sandbox: Sandbox) -> None:
    async def several() -> list[SandboxResult]:
        return await asyncio.gather(*(sandbox.run(f"sleep 0.1; echo {n}") for n in range(4)))

    found: list[list[SandboxResult]] = []
    threads = [
        threading.Thread(target=lambda: found.append(asyncio.run(several()))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[r.stdout for r in results] for results in found] == [["0\n", "1\n", "2\n", "3\n"]] * 2


# Which kind.


def test_a_system_without_bwrap_falls_back_and_says_what_is_not_held(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    skip_unless_permitted("landlock")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert open_sandbox(settings()).kind == "landlock"
    assert open_sandbox(settings()).kind == "landlock"
    (record,) = caplog.records
    assert "kind=landlock not held: " in record.getMessage()
    assert "bwrap is not installed; install the package bubblewrap" in record.getMessage()


def test_a_kind_that_is_too_weak_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"'bubblewrap' works.*not installed.*sandbox\.require"):
        open_sandbox(settings(require="bubblewrap"))
    weak = {"sandbox": {"kind": "none"}, "model": {"path": "x"}, "backbone": "debug"}
    weak |= {"rollout": {"agentscope_workflow": "x->Y"}, "task_reader": {"type": "random_dummy"}}
    with pytest.raises(ConfigError, match=r"kind = 'none' \(.*\) is weaker than .*require = 'land"):
        load_mapping({"astuner": weak}, name="weak")


def test_forbidden_namespaces_are_found_by_trying() -> None:
    skip_unless_permitted("bubblewrap")
    unshare = shutil.which("unshare")
    assert unshare
    code = (
        "import os; from astuner.sandbox.kinds import try_kind; "
        "print(try_kind('bubblewrap', os.environ['PATH']).reason); "
        "print(try_kind('landlock', os.environ['PATH']).confinement is not None)"
    )
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    found = subprocess.run(
        [
            unshare,
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            forbid,
            "sh",
            sys.executable,
            "-c",
            code,
        ],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    reason, _, landlock = found.stdout.partition("\n")
    assert "bwrap did not start: " in reason, found.stderr
    assert "namespace" in reason
    is_permitted = try_kind("landlock", os.environ["PATH"]).confinement is not None
    assert landlock == f"{is_permitted}\n"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo no such option >&2; exit 1", "bwrap did not start: no such option"),
        ('for n in {3..40}; do eval "echo [] >&$n"; done 2>/dev/null', "bwrap did not start"),
    ],
)
def test_a_program_that_is_not_the_bwrap_we_know_is_found_by_trying(
    script: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bwrap").write_text(f"#!/bin/bash\n{script}\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    tried = try_kind("bubblewrap", os.environ["PATH"])
    assert tried.confinement is None
    assert reason in tried.reason


# The tool for agents.

CODES = {
    "output": "print(1)",
    "no output": "",
    "an error": "1/0",
    "an exit code": "import sys; print('a', end=''); sys.exit(3)",
    "both": "import sys; print('é'); print('b', file=sys.stderr)",
}


def test_the_tool_answers_as_that_of_agentscope(kind: str) -> None:
    ours = python_tool(resolved(kind=kind, require=kind))

    async def both(code: str) -> list[str]:
        responses = await asyncio.gather(ours(code), tools.execute_python_code(code))
        return [response.content[0]["text"] for response in responses]

    for code in CODES.values():
        own, theirs = asyncio.run(both(code))
        own_end, their_end = (text.rpartition("<stderr>") for text in (own, theirs))
        assert own_end[0] == their_end[0]
        assert own_end[2].splitlines()[-1:] == their_end[2].splitlines()[-1:]


def test_the_tool_is_described_to_the_model_as_that_of_agentscope_is(kind: str) -> None:
    schemas = []
    for tool in (python_tool(resolved(kind=kind, require=kind)), tools.execute_python_code):
        toolkit = tools.Toolkit()
        toolkit.register_tool_function(tool)
        schemas.append(toolkit.get_json_schemas()[0]["function"])
    assert schemas[0] == schemas[1]


def test_the_tool_says_what_ended_the_code(kind: str) -> None:
    tool = python_tool(resolved(kind=kind, require=kind, output_kb=1, disk_mb=1))

    def said(code: str, **given: Any) -> str:
        return asyncio.run(tool(code, **given)).content[0]["text"]

    assert said("import time; print(1); time.sleep(9)", timeout=0.5) == (
        "<returncode>-1</returncode><stdout>1\n</stdout><stderr>TimeoutError: The code execution "
        "exceeded the timeout of 0.5 seconds.</stderr>"
    )
    assert said("", timeout=float("nan")).startswith("<returncode>0</returncode>")
    assert said("print(2)", timeout=None).startswith("<returncode>0</returncode><stdout>2")
    assert "limit of output" in said("while True: print('x' * 1000)")
    assert "is cut" in said("print('x' * 2000)")
    assert "disk_mb" in said("#" + "x" * 2_000_000)
    assert "SyntaxError" in said("print('\ud800')")


def test_without_a_sandbox_the_tool_is_another_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def plain(code: str) -> None: ...

    monkeypatch.setenv("PATH", str(tmp_path))
    config = resolved(require="bubblewrap")
    with pytest.raises(ConfigError):
        python_tool(config)
    assert python_tool(config, otherwise=plain) is plain
    assert python_tool(config, otherwise=plain) is plain
    (record,) = caplog.records
    assert record.getMessage().startswith("NO SANDBOX")


def resolved(**changes: Any) -> Any:
    from omegaconf import OmegaConf

    section = packaged_section("sandbox") | changes
    return OmegaConf.create({"astuner": {"sandbox": section}})
