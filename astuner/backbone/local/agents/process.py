"""What a process of agents runs: attempts, one task each, for the command's process.

Started by `link.py`, and never imported by others. It leaves when it is told to, and is killed with
the process that started it. Signals that end a run are that one's to handle.
"""

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from logging.handlers import QueueHandler
from typing import Any

from astuner import log
from astuner.backbone.assemble import lock_supervised_for, make_episode_settings, make_gateway
from astuner.backbone.chats import make_token_chat
from astuner.backbone.environments import open_environments
from astuner.backbone.local.agents.asked_engine import AskedEngine, OpenCalls
from astuner.backbone.local.agents.frames import Frames, framed
from astuner.backbone.local.agents.messages import (
    POLICY,
    REFERENCE,
    Begin,
    Broken,
    Cancel,
    End,
    Ended,
    EngineAnswer,
    Ready,
    Sampled,
    Serve,
    ToProcess,
)
from astuner.backbone.models_closed import close_asked_models
from astuner.backbone.run import Run
from astuner.backbone.worker_run import WorkerRun
from astuner.env_service.instance import Environments
from astuner.errors import AstunerError, BackboneError, described
from astuner.gateway.gateway import Gateway
from astuner.inference.template import ChatTemplate
from astuner.llm import usage_of_process
from astuner.log_json import about_now
from astuner.machine.heap import lasting_heap
from astuner.models.end_ids import read_end_ids
from astuner.models.source import load_tokenizer
from astuner.rollout.episode import run_attempt
from astuner.rollout.targets import TargetNotes
from astuner.rollout.threads import DaemonThreads
from astuner.rollout.watchdog import loop_watchdog
from astuner.run_dir import json_line
from astuner.trajectory.attempt import Attempt
from astuner.trajectory.plain import plain
from astuner.trajectory.record import attempt_from_record, attempt_to_record, calls_to_record
from astuner.types import WorkflowOutput, WorkflowTask

logger = logging.getLogger(__name__)

_SET_DEATH_SIGNAL = 1
_OF_EVERY_RECORD = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime"}
_END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(link: int, records: int, parent: int, argv: Sequence[str]) -> None:
    """`link` and `records` are descriptors: of the socket to the process `parent`, and of the pipe
    that takes its log. `argv` are its arguments, for code that asks."""
    _die_with(parent)
    sys.argv[:] = argv
    for descriptor in (link, records):
        os.set_inheritable(descriptor, False)
    for number in _END_SIGNALS:
        # A function, since what is ignored stays ignored in processes that agents start.
        signal.signal(number, lambda *_: None)
    with log.install_elsewhere(_ToCommand(records)):
        try:
            asyncio.run(_serve(socket.socket(fileno=link)))
        except BaseException as error:
            logger.error("a process of agents is ended by their code: %s", described(error))
            raise


def _die_with(parent: int) -> None:
    """Where the system can (prctl(2)); elsewhere the end of the link is noticed by the loop."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class _ToCommand(QueueHandler):
    """Brings records to the command's log, from whichever thread, also while the loop is busy."""

    def __init__(self, pipe: int) -> None:
        self._pipe, self._writing = pipe, threading.Lock()
        super().__init__(self)  # type: ignore[arg-type]  # its queue is `enqueue`

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """With what a library or an agent added to it as plain values."""
        prepared = super().prepare(record)
        for name in prepared.__dict__.keys() - _OF_EVERY_RECORD:
            setattr(prepared, name, plain(getattr(prepared, name)))
        return prepared

    def enqueue(self, record: logging.LogRecord) -> None:
        left = memoryview(framed((record, dict(about_now()))))
        with self._writing, contextlib.suppress(BrokenPipeError):
            while left:
                left = left[os.write(self._pipe, left) :]


async def _serve(link: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(DaemonThreads())
    asked: asyncio.Queue[ToProcess] = asyncio.Queue()
    frames = Frames(asked.put_nowait, on_lost=lambda: os._exit(1))
    await loop.create_unix_connection(lambda: frames, sock=link)
    try:
        await _take_orders(asked, frames)
    except AstunerError as error:
        frames.send(Broken(error))
    except Exception as error:
        logger.exception("a process of agents fails")
        frames.send(Broken(BackboneError(f"a process of agents failed: {described(error)}")))
        raise
    # The link is left open: what code of agents has registered for the end is still to run.


async def _take_orders(asked: "asyncio.Queue[ToProcess]", frames: Frames) -> None:
    worker = await asked.get()
    assert isinstance(worker, WorkerRun)
    run = worker.open(judges=False)
    serve = await asked.get()
    if not isinstance(serve, Serve):
        return
    async with _agents(run, serve, frames) as agents:
        frames.send(Ready())
        with lasting_heap():
            while not isinstance(order := await asked.get(), End):
                agents.take(order)


@contextlib.asynccontextmanager
async def _agents(run: Run, serve: Serve, frames: Frames) -> "AsyncIterator[_Agents]":
    """With all that stands around them; whatever still runs in the end is cancelled."""
    seconds = run.settings.rollout.episode_timeout_seconds / 4
    async with make_gateway(run) as gateway, open_environments(run) as environments:
        agents = _Agents(run, serve, frames, gateway, environments)
        with (
            lock_supervised_for(run, log_file=run.run_dir.log_file, ends_run=False),
            loop_watchdog(seconds, max_computing_seconds=seconds, find_port=lambda: gateway.port),
        ):
            try:
                yield agents
            finally:
                await agents.end()
                await close_asked_models()


class _Agents:
    """The attempts that run in this process."""

    def __init__(
        self,
        run: Run,
        serve: Serve,
        frames: Frames,
        gateway: Gateway,
        environments: Mapping[str, Environments],
    ) -> None:
        """Raises ConfigError for a model whose tokenizer cannot be had."""
        self._send = frames.send
        self._calls = OpenCalls(frames.send)
        self._targets = TargetNotes()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._usage = usage_of_process()
        template = ChatTemplate(
            load_tokenizer(serve.model), extra_stop_ids=read_end_ids(serve.model)
        )
        policy, reference = (AskedEngine(name, self._calls) for name in (POLICY, REFERENCE))
        settings = make_episode_settings(
            run,
            make_token_chat(run, policy, template),
            gateway,
            environments,
            timeout_seconds=run.settings.rollout.episode_timeout_seconds,
            make_reference_chat=make_token_chat(run, reference, template, is_trained=False),
        )
        self._settings = replace(settings, target_watch=self._targets)

    def take(self, order: ToProcess) -> None:
        match order:
            case Begin(plan):
                running = asyncio.create_task(self._run(plan))
                self._running[plan.episode_id] = running
            case Cancel(episode_id):
                if episode_id in self._running:
                    self._running[episode_id].cancel()
            case EngineAnswer() | Sampled():
                self._calls.take(order)
            case _:
                raise TypeError(f"no order for agents at work: {order!r}")

    async def end(self) -> None:
        for running in self._running.values():
            running.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _run(self, plan: WorkflowTask) -> None:
        ended: Attempt | AstunerError | None = None
        try:
            ended = await run_attempt(plan, self._settings)
        except AstunerError as error:
            ended = error
        except asyncio.CancelledError:
            pass  # by the command, or by code of agents: an end without a result
        except Exception as error:
            logger.exception("an attempt fails outside of its workflow")
            ended = BackboneError(f"episode {plan.episode_id} could not be run: {described(error)}")
        finally:
            del self._running[plan.episode_id]
            self._tell(plan, ended)

    def _tell(self, plan: WorkflowTask, result: Attempt | AstunerError | None) -> None:
        used, self._usage = self._usage, usage_of_process()
        ended = Ended(
            episode_id=plan.episode_id,
            result=_ready_to_travel(result) if isinstance(result, Attempt) else result,
            targets=tuple(self._targets.take()),
            usage=self._usage.since(used),
        )
        try:
            self._send(ended)
        except Exception:  # whatever pickle says of what a user's class holds
            logger.debug("an attempt travels as its record", exc_info=True)
            self._send(replace(ended, result=_as_recorded(result)))


def _ready_to_travel(attempt: Attempt) -> Attempt:
    """With what the command would else compute for all processes: the record of the calls."""
    where = f"episode {attempt.episode_id}"
    try:
        line = json_line(calls_to_record(attempt), where=where)
    except Exception:  # noqa: BLE001  # what is no JSON is told of by the command
        return _with_plain_output(attempt)
    inside = line.removeprefix(b"{").removesuffix(b"}\n")
    return replace(_with_plain_output(attempt), encoded_calls=inside)


def _with_plain_output(attempt: Attempt) -> Attempt:
    """With metadata as the record has it: objects of the workflow's own stay in this process."""
    output = attempt.output
    if output is None:
        return attempt
    names = WorkflowOutput.model_fields.keys() - {"metadata"}
    fields = {name: getattr(output, name) for name in names}
    plainly = WorkflowOutput.model_construct(**fields, metadata=plain(output.metadata))
    return replace(attempt, output=plainly)


def _as_recorded(result: Any) -> Attempt | AstunerError:
    """An error where there is no record either: somebody waits for the end of each attempt."""
    if not isinstance(result, Attempt):
        return BackboneError(described(result))
    where = f"episode {result.episode_id}"
    try:
        return attempt_from_record(json.loads(json_line(attempt_to_record(result), where=where)))
    except Exception as error:  # noqa: BLE001  # code of user's classes
        return BackboneError(f"{where} cannot be sent to the command: {described(error)}")
