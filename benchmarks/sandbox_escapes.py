"""Tries to get out of each kind of sandbox, and prints what came of it.

    python benchmarks/sandbox_escapes.py

Every attempt is code that runs inside, against something real outside: a file with a secret, a
server, a process, a socket. A cell says `held` where the attempt failed, `bounded` where the run
was ended for it, and `GOT THROUGH` where it succeeded. Ends with 1 where the strong kind let one
through and with 2 where that is not permitted on this system.
"""

import asyncio
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from astuner.config.load import packaged_section
from astuner.config.sections.sandbox import SandboxSettings
from astuner.sandbox import Sandbox, SandboxResult, open_sandbox
from astuner.sandbox.kinds import try_kind

KINDS = ("bubblewrap", "landlock", "none")
STRONG = KINDS[0]
SHARED_KEY = 0x5EC2E7
SECRET = "the-secret-of-the-host"
LIMITS = {
    "timeout_seconds": 4,
    "memory_mb": 200,
    "cpu_seconds": 1,
    "num_processes": 32,
    "output_kb": 64,
    "disk_mb": 8,
}
C = "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True); "


@dataclass(frozen=True, slots=True)
class Outside:
    """What stands outside to be reached."""

    folder: Path
    tcp_port: int
    udp: socket.socket
    unix_path: Path
    abstract_name: str
    process: "subprocess.Popen[bytes]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    name: str
    code: Callable[[Outside], str]
    """Python that prints THROUGH where it succeeded."""
    is_through: Callable[[Outside, SandboxResult], bool] = lambda outside, result: (
        "THROUGH" in result.stdout
    )


def plain(name: str, code: str) -> Attempt:
    return Attempt(name=name, code=lambda outside: code)


def syscall(name: str, call: str) -> Attempt:
    return plain(name, f"{C}print('THROUGH' if libc.{call} >= 0 else 'failed')")


def reads(name: str, path: str) -> Attempt:
    return plain(name, f"import os; os.listdir({path!r}); print('THROUGH')")


ATTEMPTS = (
    # What others may know.
    Attempt(
        name="read a file of this user",
        code=lambda o: f"print(open({str(o.folder / 'secret')!r}).read())",
        is_through=lambda o, r: SECRET in r.stdout,
    ),
    plain(
        "list the host's home",
        f"import os; n = os.listdir({str(Path.home())!r}); print('THROUGH' if len(n) > 2 else n)",
    ),
    plain("read /etc/shadow", "print(open('/etc/shadow').read()[:1]); print('THROUGH')"),
    plain(
        "environment variables",
        "import os; print('THROUGH' if 'ASTUNER_SECRET' in os.environ else '')",
    ),
    Attempt(
        name="environment by /proc",
        code=lambda o: (
            f"import os; [print('THROUGH') for p in (os.getppid(), 1, {os.getpid()}) "
            "if b'ASTUNER_SECRET' in open(f'/proc/{p}/environ', 'rb').read()]"
        ),
    ),
    Attempt(
        name="see the host's processes",
        code=lambda o: f"import os; os.stat('/proc/{o.process.pid}/stat'); print('THROUGH')",
        is_through=lambda o, r: "THROUGH" in r.stdout,
    ),
    Attempt(
        name="the host's files by /proc/PID/root",
        code=lambda o: f"print(open('/proc/1/root{o.folder}/secret').read())",
        is_through=lambda o, r: SECRET in r.stdout,
    ),
    Attempt(
        name="a symbolic link out of the folder",
        code=lambda o: (
            f"import os; os.symlink({str(o.folder)!r}, 'out'); print(open('out/secret').read())"
        ),
        is_through=lambda o, r: SECRET in r.stdout,
    ),
    Attempt(
        name="../ out of the folder",
        code=lambda o: f"print(open('../' * 20 + {str(o.folder)[1:]!r} + '/secret').read())",
        is_through=lambda o, r: SECRET in r.stdout,
    ),
    # Writing.
    Attempt(
        name="write outside of the folder",
        code=lambda o: f"open({str(o.folder / 'written')!r}, 'w')",
        is_through=lambda o, r: (o.folder / "written").exists(),
    ),
    Attempt(
        name="change the mode of a file of this user",
        code=lambda o: f"import os; os.chmod({str(o.folder / 'secret')!r}, 0o777)",
        is_through=lambda o, r: (o.folder / "secret").stat().st_mode & 0o777 == 0o777,
    ),
    plain(
        "write to /usr",
        "p = '/usr/astuner-escape'; open(p, 'w'); import os; os.unlink(p); print('THROUGH')",
    ),
    plain(
        "write to the interpreter",
        "import os, sys; p = sys.base_prefix + '/escape'; open(p, 'w'); os.unlink(p); "
        "print('THROUGH')",
    ),
    plain(
        "write a setting of the kernel",
        "open('/proc/sys/kernel/hostname', 'r+').close(); print('THROUGH')",
    ),
    plain(
        "make a setuid program that root owns",
        "import os, shutil; shutil.copy('/bin/true', 'x'); os.chmod('x', 0o4755); "
        "print('THROUGH' if os.stat('x').st_uid == 0 and os.access('x', os.X_OK) else '')",
    ),
    plain(
        "leave a setuid program in a folder",
        "import os; open('x', 'w').close(); os.chmod('x', 0o4755); print('THROUGH')",
    ),
    # The network.
    Attempt(
        name="a server of this machine",
        code=lambda o: (
            "import socket; "
            f"print(socket.create_connection(('127.0.0.1', {o.tcp_port}), 1).recv(9).decode())"
        ),
    ),
    plain(
        "a route out",
        "import socket; s = socket.socket(2, 2); s.connect(('8.8.8.8', 53)); print('THROUGH')",
    ),
    Attempt(
        name="a datagram",
        code=lambda o: (
            "import socket; "
            f"socket.socket(2, 2).sendto(b'x', ('127.0.0.1', {o.udp.getsockname()[1]}))"
        ),
        is_through=lambda o, r: bool(select.select([o.udp], [], [], 0.1)[0] and o.udp.recv(1)),
    ),
    Attempt(
        name="a Unix socket such as docker.sock",
        code=lambda o: (
            f"import socket; s = socket.socket(1); s.connect({str(o.unix_path)!r}); "
            "print(s.recv(9).decode())"
        ),
    ),
    Attempt(
        name="an abstract Unix socket",
        code=lambda o: (
            "import socket; s = socket.socket(1); "
            f"s.connect({o.abstract_name!r}); print(s.recv(9).decode())"
        ),
    ),
    Attempt(
        name="a datagram to a Unix socket, by one of a pair",
        code=lambda o: (
            "import socket; "
            f"socket.socketpair(1, 2)[0].sendto(b'x', {str(o.folder / 'log')!r}); print('THROUGH')"
        ),
    ),
    syscall("a raw socket", "socket(17, 3, 768)"),
    syscall("the machine around a virtual one (vsock)", "socket(40, 1, 0)"),
    # Other processes and the kernel.
    Attempt(
        name="a signal to a process outside",
        code=lambda o: f"import os; os.kill({o.process.pid}, 0); print('THROUGH')",
    ),
    plain(
        "a signal to the parent",
        "import os; os.kill(os.getppid(), 0); print('THROUGH' if os.getppid() > 2 else 'own init')",
    ),
    Attempt(
        name="ptrace a process outside",
        code=lambda o: (
            f"{C}print('THROUGH' if libc.ptrace(16, {o.process.pid}, 0, 0) == 0 else '')"
        ),
    ),
    syscall("ptrace oneself", "ptrace(0, 0, 0, 0)"),
    Attempt(
        name="read the memory of a process outside",
        code=lambda o: f"open('/proc/{o.process.pid}/mem', 'rb').close(); print('THROUGH')",
    ),
    Attempt(
        name="set limits of a process outside",
        code=lambda o: (
            f"import resource as r; r.prlimit({o.process.pid}, r.RLIMIT_NOFILE, (99, 99)); "
            "print('THROUGH')"
        ),
    ),
    Attempt(
        name="set the priority of all processes of this user",
        code=lambda o: f"import os; os.setpriority(os.PRIO_USER, 0, 5)\n{C}print('THROUGH')",
        is_through=lambda o, r: (
            "THROUGH" in r.stdout and os.getpriority(os.PRIO_PROCESS, o.process.pid) == 5
        ),
    ),
    syscall("a namespace of a user", "unshare(0x10000000)"),
    syscall("a namespace of mounts", "unshare(0x00020000)"),
    plain(
        "mount",
        f"{C}done = libc.mount(b'none', os.fsencode(os.getcwd()), b'tmpfs', 0, 0)\n"
        "if done == 0: libc.umount2(os.fsencode(os.getcwd()), 2); print('THROUGH')",
    ),
    syscall("become root", "setresuid(0, 0, 0) if os.getuid() else -1"),
    plain(
        "sudo and the like",
        "import subprocess; r = subprocess.run(['su', '-c', 'id -u'], stdin=subprocess.DEVNULL, "
        "capture_output=True); import os; "
        "print('THROUGH' if os.getuid() and r.stdout.strip() == b'0' else '')",
    ),
    syscall("make a device", "mknod(b'disk', 0o60666, 0x0800)"),
    plain(
        "open a disk or the memory",
        "import os\n"
        "for p in ('/dev/mem', '/dev/kmem', '/dev/sda', '/dev/vda', '/dev/nvme0n1', '/dev/kvm'):\n"
        "    try:\n"
        "        os.close(os.open(p, os.O_RDONLY)); print('THROUGH', p)\n"
        "    except OSError: pass",
    ),
    syscall("type into a terminal (TIOCSTI)", "ioctl(0, 0x5412, b'x') + 1 or -1"),
    plain(
        "have a terminal",
        "import os; os.open('/dev/tty', os.O_RDWR); print('THROUGH')",
    ),
    syscall(
        "the keys of the user", "syscall(250 if os.uname().machine == 'x86_64' else 219, 0, -3, 1)"
    ),
    syscall("io_uring", "syscall(425, 8, ctypes.create_string_buffer(200))"),
    syscall("userfaultfd", "syscall(323 if os.uname().machine == 'x86_64' else 282, 1)"),
    syscall(
        "perf_event",
        "syscall(298 if os.uname().machine == 'x86_64' else 241, "
        "ctypes.create_string_buffer(b'\\1\\0\\0\\0\\x80', 128), 0, -1, -1, 0)",
    ),
    syscall("bpf", "syscall(321 if os.uname().machine == 'x86_64' else 280, 0, 0, 0)"),
    syscall(
        "shared memory of the host (System V)",
        "shmget(0x5ec2e7, 0, 0)",
    ),
    # More than its share.
    plain(
        "fork until it fails (at most 300)",
        "import os, time\n"
        "n = 0\n"
        "try:\n"
        "    while n < 300:\n"
        "        if os.fork() == 0: time.sleep(60)\n"
        "        n += 1\n"
        "except OSError as error: print(n, error)\n"
        "else: time.sleep(0.3); print('THROUGH')",
    ),
    plain("memory of one process", "x = b'x' * 400_000_000; print('THROUGH')"),
    plain(
        "memory of many processes",
        "import os, time\n"
        "for _ in range(8):\n"
        "    if os.fork() == 0:\n"
        "        x = b'x' * 100_000_000; time.sleep(60)\n"
        "time.sleep(1.5); print('THROUGH')",
    ),
    plain(
        "memory of no process (memfd)",
        "import os\n"
        "for _ in range(50):\n"
        "    fd = os.memfd_create('x')\n"
        "    for _ in range(5): os.write(fd, bytes(1 << 20))\n"
        "print('THROUGH')",
    ),
    plain(
        "memory of no process (System V)",
        f"{C}\nlibc.shmat.restype = ctypes.c_void_p\n"
        "made = []\n"
        "for _ in range(5):\n"
        "    made.append(libc.shmget(0, 50_000_000, 0o1600))\n"
        "    at = libc.shmat(made[-1], None, 0)\n"
        "    if made[-1] < 0: break\n"
        "    ctypes.memset(at, 1, 50_000_000); libc.shmdt(ctypes.c_void_p(at))\n"
        "else: print('THROUGH')\n"
        "for one in made: libc.shmctl(one, 0, None)",
    ),
    plain(
        "a large file",
        "import os; f = open('x', 'wb', buffering=0)\nfor _ in range(64): f.write(bytes(1 << 20))\n"
        "print('THROUGH' if os.stat('x').st_size == 1 << 26 else '')",
    ),
    plain(
        "many files",
        "for n in range(64): open(str(n), 'wb').write(bytes(1 << 20))\nprint('THROUGH')",
    ),
    plain(
        "memory as files in /dev/shm",
        "import os\n"
        "try:\n"
        "    for n in range(64): open(f'/dev/shm/astuner-{n}', 'wb').write(bytes(1 << 20))\n"
        "    print('THROUGH')\n"
        "finally:\n"
        "    for n in range(64):\n"
        "        try: os.unlink(f'/dev/shm/astuner-{n}')\n"
        "        except OSError: pass",
    ),
    plain(
        "the processor",
        "import time\nwhile time.process_time() < 2.5: pass\nprint('THROUGH')",
    ),
    plain(
        "the processor by many processes",
        "import os, time\nmine = [os.fork() for _ in range(2)]\n"
        "while time.process_time() < 0.8: pass\n"
        "if all(mine): [os.wait() for _ in mine]; print('THROUGH')",
    ),
    plain(
        "time, with signals ignored",
        "import signal, time\nfor n in (1, 2, 15): signal.signal(n, signal.SIG_IGN)\n"
        "time.sleep(7); print('THROUGH')",
    ),
    Attempt(
        name="a flood of output",
        code=lambda o: "while True: print('x' * 100000)",
        is_through=lambda o, r: len(r.stdout) > 64 * 1024,
    ),
    Attempt(
        name="a process that outlives the run",
        code=lambda o: (
            "import os, time\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    if os.fork() == 0:\n"
            "        for fd in range(3): os.close(fd)\n"
            f"        os.execvp('sleep', ['sleep', '60.{o.process.pid}'])\n"
            "    os._exit(0)\n"
            "time.sleep(0.3)"
        ),
        is_through=lambda o, r: bool(end_sleepers(f"60.{o.process.pid}")),
    ),
    Attempt(
        name="the same, its supervisor killed first",
        code=lambda o: (
            "import os, time\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            f"    os.execvp('sleep', ['sleep', '60.{o.process.pid}'])\n"
            "time.sleep(0.3)\n"
            "try: os.kill(os.getppid(), 9)\n"
            "except OSError: pass"
        ),
        is_through=lambda o, r: bool(end_sleepers(f"60.{o.process.pid}")),
    ),
)


def end_sleepers(duration: str) -> list[int]:
    """End what an attempt left running, known by its argument; returns the processes."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if duration.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
                os.kill(found[-1], signal.SIGKILL)
        except (OSError, ValueError):
            continue
    return found


@contextmanager
def outside() -> Iterator[Outside]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        (folder / "secret").write_text(SECRET)
        (folder / "secret").chmod(0o600)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(folder / "docker.sock"))
        (folder / "docker.sock").chmod(0o666)
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0astuner-escape-{os.getpid()}")
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        log = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        log.bind(str(folder / "log"))
        (folder / "log").chmod(0o666)
        for listener in (tcp, unix, abstract):
            listener.listen()
            threading.Thread(target=_answer, args=[listener], daemon=True).start()
        libc = ctypes.CDLL(None)
        shared = libc.shmget(SHARED_KEY, 1, 0o1666)
        stack.callback(libc.shmctl, shared, 0, None)
        process = stack.enter_context(subprocess.Popen(["sleep", "600"]))
        stack.callback(process.kill)
        yield Outside(
            folder=folder,
            tcp_port=tcp.getsockname()[1],
            udp=udp,
            unix_path=folder / "docker.sock",
            abstract_name=f"\0astuner-escape-{os.getpid()}",
            process=process,
        )


def _answer(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b"THROUGH")


def told(attempt: Attempt, around: Outside, sandbox: Sandbox) -> str:
    files = {"attempt.py": attempt.code(around)}
    result = asyncio.run(sandbox.run([sys.executable, "-I", "-S", "attempt.py"], files=files))
    if attempt.is_through(around, result):
        return "GOT THROUGH"
    if result.ended_by is not None:
        return f"bounded ({result.ended_by})"
    return "held"


def main() -> int:
    os.environ["ASTUNER_SECRET"] = SECRET
    kinds: dict[str, Sandbox] = {}
    for kind in KINDS:
        tried = try_kind(kind, os.environ["PATH"])
        if tried.confinement is None:
            print(f"{kind} is not permitted here: {tried.reason}\n")
            continue
        section = packaged_section("sandbox") | LIMITS | {"kind": kind, "require": kind}
        kinds[kind] = open_sandbox(SandboxSettings.model_validate(section))
    print(f"| attempt | {' | '.join(kinds)} |")
    print(f"| --- |{' --- |' * len(kinds)}")
    let_through = []
    begun = time.monotonic()
    with outside() as around:
        for attempt in ATTEMPTS:
            cells = [told(attempt, around, sandbox) for sandbox in kinds.values()]
            print(f"| {attempt.name} | {' | '.join(cells)} |", flush=True)
            if STRONG in kinds and cells[0] == "GOT THROUGH":
                let_through.append(attempt.name)
    print(f"\n{len(ATTEMPTS)} attempts in {time.monotonic() - begun:.0f} s.")
    if STRONG not in kinds:
        return 2
    if let_through:
        print(f"{STRONG} let through: {', '.join(let_through)}")
    return 1 if let_through else 0


if __name__ == "__main__":
    sys.exit(main())
