r"""Whether two mathematical expressions are equal: by text, by exact number, then symbolically.

`exact_equality` settles almost every pair and needs nothing. What is left goes to math-verify,
which parses arbitrary expressions and may therefore take forever or eat the memory: it runs in
worker processes only, each answer has a deadline, and a worker that misses it is killed.
"""

import asyncio
import atexit
import contextlib
import json
import logging
import math
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from astuner.errors import JudgeError
from astuner.task_judge.math.number import parse_number
from astuner.task_judge.math.text import plain_math

logger = logging.getLogger(__name__)

MAX_EXPRESSION_CHARS = 2_000
"""Longer expressions are equal only to the same text."""
START_TIMEOUT_SECONDS = 60.0
NUM_WORKERS = max(2, min(8, (os.cpu_count() or 1) // 2))
"""One hostile answer holds one worker until its deadline; the others go on."""

_PATIENCE_SECONDS = 1.0
"""For a worker that is busy, before another is started: starting one takes longer than almost every
comparison."""
_STALLED_SHARE = 0.1
"""Of its deadline: a worker that got less of a processor was not busy with its expressions."""

_WORKER_FILE = Path(__file__).with_name("worker.py")
_CHOICE = re.compile(r"\(?([A-Za-z])\)?")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_FUNCTIONS = re.compile(
    "a?(?:sin|cos|tan)h?|arc(?:sin|cos|tan)|cot|sec|csc|log|exp|sqrt|max|min|gcd|lcm|det|mod|frac"
    "|and|begin|end|[pbv]?matrix|cases|array|infty|infinity",
    re.IGNORECASE,
)


def exact_equality(answer: str, reference: str) -> bool | None:
    """Compare what needs no algebra: equal texts, and numbers. None: only algebra can tell."""
    answer, reference = plain_math(answer), plain_math(reference)
    if not answer or not reference:
        return False
    if _bare(answer) == _bare(reference):
        return True
    if _CHOICE.fullmatch(answer) and _CHOICE.fullmatch(reference):
        return False
    numbers = parse_number(answer), parse_number(reference)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0].equals(numbers[1])
    if max(len(answer), len(reference)) > MAX_EXPRESSION_CHARS:
        return False
    return False if is_prose(answer) or is_prose(reference) else None


def _bare(text: str) -> str:
    """Without spaces; words without case, and `(C)` as `C`."""
    text = "".join(text.split())
    choice = _CHOICE.fullmatch(text)
    if choice:
        return choice[1].lower()
    return text.lower() if _WORD.search(text) else text


def is_prose(text: str) -> bool:
    """Whether the text holds words that are no function names: `Tuesday`, `not 18`."""
    return not all(_FUNCTIONS.fullmatch(word) for word in _WORD.findall(text))


class _WorkerGoneError(Exception):
    """The worker ended without an answer."""


class _Worker:
    """One child process with math-verify. Used by one thread at a time; owned by its pool."""

    def __init__(self, interpreter: str) -> None:
        self._interpreter = interpreter
        command = [interpreter, "-P", str(_WORKER_FILE)]
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise JudgeError(
                f"cannot start the process that compares expressions ({' '.join(command)}): "
                f"{error}; free memory or processes on this machine"
            ) from error
        self._wait_until_ready()

    @property
    def process_id(self) -> int:
        return self._process.pid

    @property
    def was_killed(self) -> bool:
        """By whoever kills processes, not over what it computed. Known once it has ended."""
        return self._process.returncode in (-signal.SIGKILL, -signal.SIGTERM)

    def cpu_seconds(self) -> float:
        """What it has computed so far; infinite where the system does not tell."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:
            return math.inf
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def ask(self, answer: str, reference: str, *, timeout_seconds: float) -> bool:
        """Raises TimeoutError after the deadline, _WorkerGoneError if the process is gone."""
        assert self._process.stdin is not None
        request = {
            "answer": answer,
            "reference": reference,
            "timeout_seconds": timeout_seconds,
        }
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError as error:
            raise _WorkerGoneError from error
        return self._read(timeout_seconds)["equal"]

    def end(self) -> None:
        """Kill the process, unless it has ended, and reap it. Twice is harmless."""
        if self._process.poll() is None:
            self._process.kill()
        with self._process:
            pass

    def _wait_until_ready(self) -> None:
        try:
            greeting = self._read(START_TIMEOUT_SECONDS)
        except (_WorkerGoneError, TimeoutError) as error:
            self.end()
            raise JudgeError(
                "the process that compares expressions did not start: "
                f"{type(error).__name__} {error}, exit code {self._process.returncode}; try "
                f"`{self._interpreter} -c 'import math_verify'`"
            ) from error
        if "error" in greeting:
            self.end()
            raise JudgeError(
                f"the process that compares expressions did not start: {greeting['error']}; "
                "install it with `pip install 'astuner[math]'`"
            )

    def _read(self, timeout_seconds: float) -> dict:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_seconds):
                raise TimeoutError(f"no answer within {timeout_seconds:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise _WorkerGoneError
        return json.loads(line)


class SymbolicComparer:
    """A few worker processes, started when they are needed and shared by all who ask.

    Close it when done. Safe from several threads and event loops.
    """

    def __init__(
        self, *, num_workers: int = NUM_WORKERS, interpreter: str = sys.executable
    ) -> None:
        """`interpreter` is the Python that runs the workers; it must have math-verify."""
        self._interpreter = interpreter
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="math-equality")
        self._idle: deque[_Worker] = deque()
        self._num_held = 0
        """Workers that start or compare."""
        self._changed = threading.Condition()

    def prepare(self) -> None:
        """Start a worker in the background, where there is none: no comparison then waits for it.

        One that cannot be started is told by the first comparison.
        """
        with contextlib.suppress(RuntimeError):  # closed meanwhile
            self._threads.submit(self._start_ahead)

    async def is_equal(self, answer: str, reference: str, *, timeout_seconds: float) -> bool:
        """Symbolic equality. False as well when the process computes until the deadline, or dies,
        over the expressions.

        The deadline counts from the moment that a worker is free. Raises JudgeError when that is
        not known: no worker can be started, it was killed, or the machine gave it no time.
        """
        answer, reference = _for_latex_parser(answer), _for_latex_parser(reference)
        future = self._threads.submit(self._compare, answer, reference, timeout_seconds)
        return await asyncio.wrap_future(future)

    @property
    def idle_process_ids(self) -> list[int]:
        """Of the workers that wait for an expression."""
        return [worker.process_id for worker in list(self._idle)]

    def close(self) -> None:
        """End all workers; waits for the comparisons that are running, at most their deadline."""
        self._threads.shutdown(cancel_futures=True)
        while self._idle:
            self._idle.pop().end()

    def _start_ahead(self) -> None:
        with contextlib.suppress(JudgeError):
            self._give_back(self._take_worker())

    def _compare(self, answer: str, reference: str, timeout_seconds: float) -> bool:
        # Idle workers may have been killed from outside, which is not this answer's fault: one more
        # try, with a new one, tells the two apart.
        for take in (self._take_worker, self._take_new_worker):
            worker = take()
            started = worker.cpu_seconds()
            try:
                verdict = worker.ask(answer, reference, timeout_seconds=timeout_seconds)
            except TimeoutError:
                spent = worker.cpu_seconds() - started
                self._give_up(worker)
                self.prepare()
                if spent < timeout_seconds * _STALLED_SHARE:
                    raise JudgeError(
                        "the process that compares expressions stalled: it got "
                        f"{spent:.1f} s of a processor in {timeout_seconds:g} s; this machine has "
                        "too little time or memory for it"
                    ) from None
                logger.warning(
                    "comparison stopped seconds=%g answer=%.80r", timeout_seconds, answer
                )
                return False
            except _WorkerGoneError:
                self._give_up(worker)
                continue
            self._give_back(worker)
            return verdict
        if worker.was_killed:
            raise JudgeError(
                "the process that compares expressions was killed twice by something else, such "
                "as the system for want of memory; free memory on this machine"
            )
        logger.warning("comparison ended its process twice answer=%.80r", answer)
        return False

    def _take_worker(self) -> _Worker:
        """An idle one, or one that is soon, else a new one."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._idle or not self._num_held, timeout=_PATIENCE_SECONDS
            )
            self._num_held += 1
            if self._idle:
                return self._idle.pop()
        return self._held_from_start()

    def _take_new_worker(self) -> _Worker:
        with self._changed:
            self._num_held += 1
        return self._held_from_start()

    def _held_from_start(self) -> _Worker:
        """A new one, which counts as held already. A start that fails is tried once more."""
        try:
            return self._started()
        except BaseException:
            self._let_go()
            raise

    def _started(self) -> _Worker:
        try:
            return _Worker(self._interpreter)
        except JudgeError:
            return _Worker(self._interpreter)

    def _give_back(self, worker: _Worker) -> None:
        self._idle.append(worker)
        self._let_go()

    def _give_up(self, worker: _Worker) -> None:
        worker.end()
        self._let_go()

    def _let_go(self) -> None:
        with self._changed:
            self._num_held -= 1
            self._changed.notify()


def _for_latex_parser(text: str) -> str:
    r"""Python's and everyday spellings as LaTeX: `2**3`, `3 pi`, `sqrt(3)`, `3 or -3`."""
    text = plain_math(text).replace("**", "^")
    text = re.sub(r"(?<![\\A-Za-z])(pi|sqrt)(?![A-Za-z])", r"\\\1", text)
    text = re.sub(r"\s(?:and|or)\s", ", ", text)
    return re.sub(r"\\sqrt\s?\(([^()]*)\)", r"\\sqrt{\1}", text)


_shared: SymbolicComparer | None = None
_shared_lock = threading.Lock()


def shared_comparer() -> SymbolicComparer:
    """The one comparer of this process, closed when the interpreter ends."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = SymbolicComparer()
        return _shared


@atexit.register
def _close_shared() -> None:
    if _shared is not None:
        _shared.close()


def _forget_after_fork() -> None:
    """A forked child has neither the threads nor a right to the workers of its parent."""
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_after_fork)
