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
_SAY_AT_MOST = 65_536
"""Bytes without the end of a line that are held back."""
_REAP_SECONDS = 5.0
"""For a process whose link is closed, or that was killed, to have ended."""
_DRAIN_SECONDS = 1.0
"""For what a process said last to arrive; a process that it left behind may hold the link open."""
_PROGRAM = (
    "import gc, signal, sys; signal.signal(signal.SIGINT, lambda *_: None); "
    "link, records, parent = map(int, sys.argv[1:4]); sys.path.append(sys.argv[4]); "
    "from astuner.machine.heap import NEW_OBJECTS; gc.set_threshold(NEW_OBJECTS); "
    "from astuner.backbone.local.agents.process import main; "
    "main(link, records, parent, sys.argv[5:])"
)
"""Which leaves the environment as it is: agents start programs, and those inherit it. A terminal's
Ctrl-C is the command's to handle, also while this one still imports."""
_HOME_OF_PACKAGE = Path(__file__).parents[4]


class ProcessGone(Exception):
    """The process ended, and with it all that it did."""


class NotBegun(ProcessGone):
    """Nor had it begun what it was asked for, which may be asked of another."""


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
        though nobody asked it to, and another one may fare better. Raises BackboneError where none
        can be started."""
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
        self._is_leaving = self._is_condemned = False
        self._frames = Frames(self._take, on_lost=self._lose)
        self._lasting: set[asyncio.Task[Any]] = set()
        self._process = self._start(worker)
        self._frames.send(worker)
        self._keep(self._watch())

    @property
    def num_running(self) -> int:
        """Attempts that were given to it and have not ended."""
        return self._tasks_begun.total()

    @property
    def was_ready(self) -> bool:
        return self._ready.done() and self._ready.exception() is None

    def has_attempt_at(self, task: Task) -> bool:
        return self._tasks_begun[task.task_id] > 0

    def send(self, message: ToProcess) -> None:
        self._frames.send(message)

    async def linked(self) -> None:
        """Once it was sent what it gets ready with."""
        await asyncio.wait([self._linking])

    async def run(self, plan: WorkflowTask) -> Ended:
        """Run an attempt there. Cancelled, it is cancelled there, but not waited for: its process
        may be blocked, and is ended within a bound.

        Raises ProcessGone where the process ends, NotBegun where it does so before, and what keeps
        it from getting ready.
        """
        self._tasks_begun[plan.task_id] += 1
        try:
            await asyncio.shield(self._ready)
            if self._is_condemned or self._unlinked.done():
                await asyncio.shield(self._gone)
                raise NotBegun("its process of agents had ended")
            return await self._run(plan)
        finally:
            self._tasks_begun[plan.task_id] -= 1
            if not self._tasks_begun[plan.task_id]:
                del self._tasks_begun[plan.task_id]

    async def _run(self, plan: WorkflowTask) -> Ended:
        ended = self._attempts[plan.episode_id] = self._loop.create_future()
        try:
            self._begin(plan)
            told = await asyncio.shield(ended)
        except asyncio.CancelledError:
            self.send(Cancel(plan.episode_id))
            raise
        else:
            if told.result is None:
                self._condemn()
                raise ProcessGone(
                    "code of an agent cancelled the episode from outside; its process was ended"
                )
            return told
        finally:
            del self._attempts[plan.episode_id]

    def _begin(self, plan: WorkflowTask) -> None:
        try:
            self.send(Begin(plan))
        except Exception as error:
            raise BackboneError(
                f"task {plan.task_id!r} cannot be sent to a process of agents: {described(error)}; "
                "let its reader give plain values, or set rollout.num_workers to 0"
            ) from error

    def _condemn(self) -> None:
        """Code that cancels tasks of others may have cancelled what keeps the process going."""
        self._is_condemned = True
        self._process.kill()

    async def end(self, *, within: float) -> None:
        """Ask it to leave, and kill it where it does not within so many seconds, or has nothing to
        leave since it is not ready."""
        self._is_leaving = True
        if self._ready.done():
            self.send(End())
            await asyncio.wait([self._gone], timeout=within)
        if not self._gone.done():
            logger.info("a process of agents is ended pid=%d", self._process.pid)
            self._process.kill()
            await asyncio.wait([self._gone], timeout=_REAP_SECONDS)
        for task in self._lasting:
            task.cancel()
        await asyncio.gather(*self._lasting, return_exceptions=True)

    def _start(self, worker: WorkerRun) -> "subprocess.Popen[bytes]":
        with contextlib.ExitStack() as opened, contextlib.ExitStack() as passed:
            try:
                ours, theirs = socket.socketpair()
                passed.enter_context(theirs)
                opened.enter_context(ours)
                reading, writing = os.pipe()
                passed.callback(os.close, writing)
                records = opened.enter_context(open(reading, "rb"))
                process = _begin_process(theirs.fileno(), writing, home=worker.home)
            except OSError as error:
                raise BackboneError(
                    f"a process of agents cannot be started: {error}; free memory, processes or "
                    "open files on this machine, or lower rollout.num_workers"
                ) from error
            opened.pop_all()
        link = self._loop.create_unix_connection(lambda: self._frames, sock=ours)
        self._linking = self._keep(link)
        self._read(records, Frames(_log))
        self._read(process.stdout, _Echo(lambda: sys.stdout))
        self._read(process.stderr, _Echo(lambda: sys.stderr))
        return process

    def _read(self, pipe: IO[bytes] | None, reader: asyncio.Protocol) -> None:
        assert pipe is not None
        self._keep(self._loop.connect_read_pipe(lambda: reader, pipe))

    def _keep(self, work: Any) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)
        return task

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
        is_killed = (self._process.returncode or 0) < 0
        is_replaceable = not self._is_leaving and (self.was_ready or is_killed)
        if not self._ready.done():
            early = f"a process of agents {how} before it was ready"
            self._fail(NotBegun(early) if is_killed else BackboneError(early))
        num_lost = len(self._attempts)
        self._fail(
            ProcessGone(
                f"its process of agents {how}, with {num_lost} attempts in it; see what it said "
                "last. Where the system ended it for want of memory, lower rollout.num_workers or "
                "rollout.max_env_worker"
            )
        )
        _settle(self._gone, None)
        if is_replaceable:
            pid = self._process.pid
            logger.warning("a process of agents %s attempts=%d pid=%d", how, num_lost, pid)
            self._on_gone(self)

    def _fail(self, error: Exception) -> None:
        """Whoever waits for this process does so in vain."""
        for waiting in (self._ready, *self._attempts.values()):
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # asked for, so that none is missed where nobody waits


def _begin_process(link: int, records: int, *, home: Path) -> "subprocess.Popen[bytes]":
    given = [link, records, os.getpid(), _HOME_OF_PACKAGE, *sys.argv]
    # Without the current directory, whose files could hide modules of the same names, and with
    # nothing that is printed held back.
    return subprocess.Popen(
        [sys.executable, "-P", "-u", "-c", _PROGRAM, *map(str, given)],
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(link, records),
    )


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
    """Says again, by whole lines, what the process writes to a stream."""

    def __init__(self, find_stream: Callable[[], Any]) -> None:
        self._find_stream = find_stream
        self._held = bytearray()

    def data_received(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > _SAY_AT_MOST:
            self._say(len(self._held))
        else:
            self._say(1 + max(map(self._held.rfind, (b"\n", b"\r"))))

    def connection_lost(self, _error: Exception | None) -> None:
        self._say(len(self._held))

    def _say(self, num_bytes: int) -> None:
        said = self._held[:num_bytes].decode("utf-8", "replace")
        del self._held[:num_bytes]
        stream = self._find_stream()
        if not said or stream is None:
            return
        encoding = getattr(stream, "encoding", None) or "utf-8"
        with contextlib.suppress(OSError, ValueError):  # closed, or its reader is gone
            stream.write(said.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()


def _log(record: tuple[logging.LogRecord, Mapping[str, Any]]) -> None:
    """As if it had been made here."""
    made, fields = record
    with about(**fields):
        logging.getLogger(made.name).handle(made)


def _settle(future: "asyncio.Future[Any]", result: object) -> None:
    if not future.done():
        future.set_result(result)
