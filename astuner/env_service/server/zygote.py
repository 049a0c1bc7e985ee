"""The process that the instances of one environment are forked from, seen from the server.

It is started when it is first needed, and again where it has ended. Which instances live is not its
business; `worker.py` talks to one.
"""

import array
import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from astuner.env_service.server.world import TOKEN_VARIABLE, ServerSettings, World
from astuner.errors import ConfigError

_CHILD_FILE = Path(__file__).parent / "process" / "child.py"
_MAX_PACKET = 1 << 20
_MAX_OPTIONS_BYTES = 100_000
"""The system takes some 200 kB at a time."""
_END_SECONDS = 10.0

OnEnded = Callable[[int | None, str], None]
"""Is told the exit code of an instance, negative for a signal, or None and why there is none."""


class Zygote:
    """Of one environment. Used in one event loop, in the thread that lives as long as it does:
    the kernel ends the process with that thread."""

    def __init__(self, world: World, settings: ServerSettings) -> None:
        """Raises ConfigError for what is no environment. Starts nothing."""
        self._world = world
        self._settings = settings
        self._described = world.described()
        self._python = world.interpreter()
        _check_size(self._described["options"], world.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: str | None = None
        """Has what instances write; the process removes it, unless it is killed."""
        self._control: socket.socket | None = None
        self._loaded: asyncio.Future[None] | None = None
        self._outbox: deque[tuple[bytes, socket.socket | None]] = deque()
        self._on_ended: dict[str, OnEnded] = {}
        self._num_forked = 0

    async def start(self) -> None:
        """Until the class is imported there. Raises ConfigError where it cannot be."""
        if self._loaded is None:
            self._begin()
        assert self._loaded is not None
        try:
            async with asyncio.timeout(self._settings.reset_timeout_seconds):
                await asyncio.shield(self._loaded)
        except TimeoutError:
            await self.close()
            raise ConfigError(
                f"environment {self._world.name}: importing {self._described['target']} took more "
                f"than {self._settings.reset_timeout_seconds:g} s; import less, or allow more by "
                "--reset-timeout"
            ) from None

    async def fork(self, on_ended: OnEnded) -> tuple[str, socket.socket]:
        """A new instance: its id here, and the socket to talk to it by, which is the caller's.

        `on_ended` is called when its process has ended, also where it could not be started.
        """
        await self.start()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._num_forked += 1
        name = str(self._num_forked)
        self._on_ended[name] = on_ended
        self._send({"fork": name}, theirs)
        return name, ours

    def end(self, name: str) -> None:
        """Kill the process of an instance with all that it has started; twice is harmless."""
        if name in self._on_ended:
            self._send({"end": name})

    async def close(self) -> None:
        """End it with all instances."""
        process, self._process = self._process, None
        is_loaded = self._loaded is not None and self._loaded.done()
        self._forget()
        if process is None:
            return
        if not is_loaded:  # it reads nothing yet, and has no instances
            process.kill()
        try:
            await asyncio.to_thread(process.wait, _END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        scratch, self._scratch = self._scratch, None
        await asyncio.to_thread(_bury, process, scratch)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._loaded = loop.create_future()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        fd = theirs.fileno()
        command = [self._python, "-P", str(_CHILD_FILE), str(fd)]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,  # until it leads to standard error there
                    pass_fds=(fd,),
                    start_new_session=True,  # Ctrl-C in a terminal is for the server alone
                    env={k: value for k, value in os.environ.items() if k != TOKEN_VARIABLE},
                )
            except OSError as error:
                ours.close()
                self._loaded = None
                raise ConfigError(
                    f"environment {self._world.name}: cannot start {self._python}: "
                    f"{error.strerror}; name the interpreter of the environment by --python"
                ) from error
        self._control = ours
        self._send(
            {
                **self._described,
                "server_process": os.getpid(),
                "memory_mb": self._settings.memory_mb,
                "max_observation_chars": self._settings.max_observation_chars,
            }
        )
        loop.add_reader(ours.fileno(), self._read)

    def _send(self, said: dict[str, Any], with_socket: socket.socket | None = None) -> None:
        self._outbox.append((json.dumps(said).encode(), with_socket))
        self._flush()

    def _flush(self) -> None:
        while self._outbox and self._control is not None:
            packet, passed = self._outbox[0]
            ancillary = []
            if passed is not None:
                fds = array.array("i", [passed.fileno()])
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
            loop = asyncio.get_running_loop()
            try:
                self._control.sendmsg([packet], ancillary)
            except BlockingIOError:
                loop.add_writer(self._control.fileno(), self._flush)
                return
            except OSError:  # it has ended, which the next read says
                return
            self._outbox.popleft()
            if passed is not None:
                passed.close()
            loop.remove_writer(self._control.fileno())

    def _read(self) -> None:
        assert self._control is not None and self._loaded is not None
        try:
            packet = self._control.recv(_MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._be_gone()
            return
        said = json.loads(packet)
        if "loaded" in said:
            self._scratch = said["loaded"]
            self._loaded.set_result(None)
        elif "failed" in said:
            self._fail(f"cannot be imported: {said['failed']}")
        elif (on_ended := self._on_ended.pop(said["ended"], None)) is not None:
            on_ended(said["status"], said.get("why", ""))

    def _be_gone(self) -> None:
        """The process has ended, and every instance with it; the next one starts another."""
        self._fail("its process ended while it was imported; see what it wrote on standard error")
        process, self._process = self._process, None
        self._forget()
        if process is not None:
            scratch, self._scratch = self._scratch, None
            asyncio.get_running_loop().run_in_executor(None, _bury, process, scratch)

    def _fail(self, what: str) -> None:
        if self._loaded is not None and not self._loaded.done():
            self._loaded.set_exception(
                ConfigError(
                    f"environment {self._world.name}: {self._described['target']} {what}; mend "
                    f"that, or install what it needs for {self._python}"
                )
            )
            self._loaded.exception()  # perhaps nobody waits for it

    def _forget(self) -> None:
        self._loaded = None
        if self._control is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._control.fileno())
            loop.remove_writer(self._control.fileno())
            self._control.close()
            self._control = None
        for _, passed in self._outbox:
            if passed is not None:
                passed.close()
        self._outbox.clear()
        told, self._on_ended = self._on_ended, {}
        for on_ended in told.values():
            on_ended(None, "the process that it came from has ended")


def _check_size(options: dict[str, Any], name: str) -> None:
    """They go in one packet."""
    try:
        num_bytes = len(json.dumps(options))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"environment {name}: its options are no JSON: {error}; give plain values"
        ) from error
    if num_bytes > _MAX_OPTIONS_BYTES:
        raise ConfigError(
            f"environment {name}: its options take {num_bytes} bytes as JSON, more than "
            f"{_MAX_OPTIONS_BYTES}; put them into a file and name that"
        )


def _bury(process: subprocess.Popen[bytes], scratch: str | None) -> None:
    process.wait()
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
