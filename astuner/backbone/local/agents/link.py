"""One process of agents as the command sees it: started, asked, listened to and ended.

Owns the process, its link and what it says on its streams. Which attempts it gets is not known
here.
"""

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from astuner.backbone.local.agents.frames import Frames
from astuner.backbone.local.agents.messages import (
    AskEngine,
    Begin,
    Broken,
    Cancel,
    End,
    Ended,
    EngineAnswer,
    Enough,
    FromProcess,
    GiveUp,
    Ready,
    Sampled,
    ToProcess,
)
from astuner.backbone.worker_run import WorkerRun
from astuner.engine.protocol import Engine
from astuner.errors import AstunerError, BackboneError, EngineError, described
from astuner.log_json import about
from astuner.types import Completion, Task, WorkflowTask

logger = logging.getLogger(__name__)

_TELL_SECONDS = 0.02
"""Tokens of an observed call are brought together for so long: a message costs more than many."""
_REAP_SECONDS = 5.0
"""For a process whose link is closed, or that was killed, to have ended."""
_DRAIN_SECONDS = 1.0
"""For what a process said last to arrive; a process that it left behind may hold the link open."""
_LEAVE_SECONDS = 10.0
"""For one that was told to leave."""
_PACKAGE = Path(__file__).parents[3]
_MODULE = "astuner.backbone.local.agents.process"


class ProcessGone(Exception):
    """The process ended, and with it all that it did."""


class AgentProcess:
    """Belongs to the event loop in which it was made."""

    def __init__(
        self,
        worker: WorkerRun,
        *,
        engines: Callable[[], Mapping[str, Engine]],
        on_gone: Callable[["AgentProcess"], None],
    ) -> None:
        """`engines` gives those that answer its calls, by name; `on_gone` is told when it has ended
        though nobody asked it to, after it was ready. Raises BackboneError where none can be
        started."""
        self._engines, self._on_gone = engines, on_gone
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._unlinked: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._attempts: dict[str, asyncio.Future[Ended]] = {}
        self._tasks_begun: Counter[str] = Counter()
        """Attempts that were given to it and have not ended, by the ids of their tasks."""
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._told: dict[int, _ObservedCall] = {}
        self._is_leaving = False
        self._frames = Frames(self._take, on_lost=self._lose)
        self._lasting: set[asyncio.Task[Any]] = set()
        self._process = self._start(worker)
        self._frames.send(worker)
        self._keep(self._watch())

    @property
    def num_running(self) -> int:
        """Attempts that were given to it and have not ended."""
        return self._tasks_begun.total()

    def has_attempt_at(self, task: Task) -> bool:
        return self._tasks_begun[task.task_id] > 0

    def send(self, message: ToProcess) -> None:
        self._frames.send(message)

    async def run(self, plan: WorkflowTask) -> Ended:
        """Run an attempt there. Cancelled, it is cancelled there, and its end awaited.

        Raises ProcessGone where the process ends, and what keeps it from getting ready.
        """
        self._tasks_begun[plan.task_id] += 1
        try:
            await asyncio.shield(self._ready)
            return await self._run(plan)
        finally:
            self._tasks_begun[plan.task_id] -= 1
            if not self._tasks_begun[plan.task_id]:
                del self._tasks_begun[plan.task_id]

    async def _run(self, plan: WorkflowTask) -> Ended:
        ended = self._attempts[plan.episode_id] = self._loop.create_future()
        try:
            self._begin(plan)
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            self.send(Cancel(plan.episode_id))
            await asyncio.wait([ended])
            raise
        finally:
            del self._attempts[plan.episode_id]

    def _begin(self, plan: WorkflowTask) -> None:
        if self._gone.done():
            raise ProcessGone("its process of agents had ended")
        try:
            self.send(Begin(plan))
        except Exception as error:
            raise BackboneError(
                f"task {plan.task_id!r} cannot be sent to a process of agents: {described(error)}; "
                "let its reader give plain values, or set rollout.num_workers to 0"
            ) from error

    async def end(self) -> None:
        """Ask it to leave, and kill it where it does not within the bound, or has nothing to leave
        since it is not ready."""
        self._is_leaving = True
        if self._ready.done():
            self.send(End())
            await asyncio.wait([self._gone], timeout=_LEAVE_SECONDS)
        if not self._gone.done():
            logger.info("a process of agents is ended pid=%d", self._process.pid)
            self._process.kill()
            await asyncio.wait([self._gone], timeout=_REAP_SECONDS)
        for task in self._lasting:
            task.cancel()
        await asyncio.gather(*self._lasting, return_exceptions=True)

    def _start(self, worker: WorkerRun) -> "subprocess.Popen[bytes]":
        ours, theirs = socket.socketpair()
        records, records_there = os.pipe()
        passed = theirs.fileno(), records_there
        # Without the current directory, whose files could hide modules of the same names.
        command = [sys.executable, "-P", "-m", _MODULE, *map(str, passed), str(os.getpid())]
        try:
            process = subprocess.Popen(
                command,
                cwd=worker.home,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=passed,
            )
        except OSError as error:
            ours.close()
            os.close(records)
            raise BackboneError(
                f"a process of agents cannot be started ({' '.join(command)}): {error}; free "
                "memory or processes on this machine, or lower rollout.num_workers"
            ) from error
        finally:
            theirs.close()
            os.close(records_there)
        self._keep(self._loop.create_unix_connection(lambda: self._frames, sock=ours))
        self._read(open(records, "rb"), Frames(_log))  # noqa: SIM115  # as it lasts
        self._read(process.stdout, _Echo(lambda: sys.stdout))
        self._read(process.stderr, _Echo(lambda: sys.stderr))
        return process

    def _read(self, pipe: IO[bytes] | None, reader: asyncio.Protocol) -> None:
        assert pipe is not None
        self._keep(self._loop.connect_read_pipe(lambda: reader, pipe))

    def _keep(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)

    def _take(self, message: FromProcess) -> None:
        match message:
            case AskEngine():
                task = self._loop.create_task(self._answer(message))
                self._calls[message.call] = task
                task.add_done_callback(lambda _: self._calls.pop(message.call, None))
            case Ended(episode_id=episode_id):
                if episode_id in self._attempts:
                    _settle(self._attempts[episode_id], message)
            case GiveUp(call):
                if call in self._calls:
                    self._calls[call].cancel()
            case Enough(call):
                if call in self._told:
                    self._told[call].is_enough = True
            case Ready():
                _settle(self._ready, None)
            case Broken(error):
                self._fail(error)

    async def _answer(self, ask: AskEngine) -> None:
        told = _ObservedCall(ask.call, self.send, self._loop) if ask.is_observed else None
        if told is not None:
            self._told[ask.call] = told
        try:
            completion = await self._generate(ask, told)
        finally:
            self._told.pop(ask.call, None)
        self.send(EngineAnswer(call=ask.call, completion=completion))

    async def _generate(
        self, ask: AskEngine, told: "_ObservedCall | None"
    ) -> Completion | AstunerError:
        try:
            return await self._engines()[ask.engine].generate(
                ask.prompt_ids,
                ask.sampling,
                caller=ask.caller,
                index=ask.index,
                observe=told.observe if told else None,
            )
        except AstunerError as error:
            return error
        except Exception as error:
            logger.exception("the engine fails")
            return EngineError(described(error))

    def _lose(self) -> None:
        """The link is closed: the process has ended, or is about to."""
        _settle(self._unlinked, None)
        self._loop.call_later(_REAP_SECONDS, self._process.kill)

    async def _watch(self) -> None:
        """Until the process has ended."""
        code = await asyncio.to_thread(self._process.wait)
        await asyncio.wait([self._unlinked], timeout=_DRAIN_SECONDS)
        self._bury(f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}")

    def _bury(self, how: str) -> None:
        for call in list(self._calls.values()):
            call.cancel()
        if not self._ready.done():
            self._fail(BackboneError(f"a process of agents {how} before it was ready"))
        elif not self._is_leaving:
            logger.warning(
                "a process of agents %s attempts=%d pid=%d",
                *(how, len(self._attempts), self._process.pid),
            )
            self._on_gone(self)
        _settle(self._gone, None)
        gone = ProcessGone(
            f"its process of agents {how}, with {len(self._attempts)} attempts in it; see what it "
            "said last. Where the system ended it for want of memory, lower rollout.num_workers "
            "or rollout.max_env_worker"
        )
        for ended in self._attempts.values():
            if not ended.done():
                ended.set_exception(gone)

    def _fail(self, error: AstunerError) -> None:
        """Nothing can be run here, for a reason that holds for any process."""
        for waiting in (self._ready, *self._attempts.values()):
            if not waiting.done():
                waiting.set_exception(error)
        if self._ready.done():
            self._ready.exception()  # asked for, so that none is missed where nobody waits


def _environment() -> dict[str, str]:
    """Ours, with where this package was found, and where nothing that is printed is held back."""
    paths = (os.environ.get("PYTHONPATH"), str(_PACKAGE.parent))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
    }


class _ObservedCall:
    """Brings the tokens of a call to its observer in the other process."""

    def __init__(
        self, call: int, send: Callable[[ToProcess], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.is_enough = False
        self._call, self._send, self._loop = call, send, loop
        self._untold: list[int] = []
        self._changing = threading.Lock()

    def observe(self, ids: Sequence[int]) -> bool:
        """In the engine's thread."""
        with self._changing:
            is_first = not self._untold
            self._untold += ids
        if is_first:
            self._loop.call_soon_threadsafe(self._loop.call_later, _TELL_SECONDS, self._tell)
        return self.is_enough

    def _tell(self) -> None:
        with self._changing:
            ids, self._untold = tuple(self._untold), []
        self._send(Sampled(call=self._call, ids=ids))


class _Echo(asyncio.Protocol):
    """Says again, line by line, what the process writes to a stream."""

    def __init__(self, find_stream: Callable[[], Any]) -> None:
        self._find_stream = find_stream
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        lines, end, rest = (self._rest + data).rpartition(b"\n")
        self._rest = rest
        self._say(lines + end)

    def connection_lost(self, _error: Exception | None) -> None:
        self._say(self._rest)

    def _say(self, said: bytes) -> None:
        stream = self._find_stream()
        if said and stream is not None:
            with contextlib.suppress(OSError, ValueError):  # closed, or its reader is gone
                stream.write(said.decode("utf-8", "replace"))
                stream.flush()


def _log(record: tuple[logging.LogRecord, Mapping[str, Any]]) -> None:
    """As if it had been made here."""
    made, fields = record
    with about(**fields):
        logging.getLogger(made.name).handle(made)


def _settle(future: "asyncio.Future[Any]", result: object) -> None:
    if not future.done():
        future.set_result(result)
