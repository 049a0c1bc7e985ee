"""One period of serving: the thread that samples, its end, and the calls that wait for it.

Owns the way between event loops and the thread: a call that is put is answered, failed or refused,
whenever it comes. What the thread does is the stepper's, and whom it lets come in first is the
attendance's, which the sessions of several engines may share.
"""

import asyncio
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from traceback import format_exception_only
from typing import Generic, Protocol, TypeVar

from astuner.engine.attendance import Attendance
from astuner.engine.sampled import SampledTokens
from astuner.errors import BackboneError, EngineError
from astuner.waking import run_in, waking_once

Request = TypeVar("Request")
"""What a call asks of the stepper; told from others by identity."""


class Stepper(Protocol[Request]):
    """Samples for many requests together, one forward pass at a time, all in the session's thread.

    Whatever it raises ends the session, and all calls with it.
    """

    @property
    def has_work(self) -> bool:
        """Whether some request is not finished."""
        ...

    def add(self, requests: Sequence[Request]) -> None:
        """Take requests on; they come in no particular order."""
        ...

    def cancel(self, requests: Sequence[Request]) -> None:
        """Forget requests. Those that are finished, or were never added, are passed over."""
        ...

    def step(self) -> Iterable[tuple[Request, SampledTokens]]:
        """One forward pass; the requests that it finished. Nothing where there is no work."""
        ...

    def explain(self, error: BaseException) -> str:
        """Why the thread ended, for those who wait."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A call that waits for its tokens."""

    caller: str
    loop: asyncio.AbstractEventLoop
    tokens: asyncio.Future[SampledTokens]


class Session(Generic[Request]):
    """Lets a stepper sample in a thread of its own from the moment it is made until `close`.

    `answer` runs in event loops, as many as there are; everything from `_run` to `_deliver` in the
    thread. What both touch is guarded by `attendance.changed`. Whoever takes a request out of
    `_waiting` answers it, so that each is answered once, and none comes in once the refusal is set.
    """

    def __init__(
        self,
        stepper: Stepper[Request],
        attendance: Attendance,
        *,
        name: str,
        stop_seconds: float = 120.0,
    ) -> None:
        """`name` is the thread's. `stop_seconds` bounds the wait for its end: a forward pass cannot
        be interrupted, and the default is far more than one takes."""
        self._stepper = stepper
        self._attendance = attendance
        self._changed = attendance.changed
        self._stop_seconds = stop_seconds
        self._waiting: dict[Request, _Waiting] = {}
        self._new: list[Request] = []
        self._cancelled: list[Request] = []
        self.is_closing = False
        """Set once, by `close`."""
        self._refusal: EngineError | None = None
        """Why no call is accepted any more."""
        attendance.join(self)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def has_work(self) -> bool:
        return bool(self._new or self._cancelled or self._stepper.has_work)

    @property
    def has_ended(self) -> bool:
        """Whether no call is accepted any more, because of an error or of `close`."""
        return self._refusal is not None

    async def answer(self, request: Request, *, caller: str) -> SampledTokens:
        """Wait until the stepper has finished the request; cancelling the wait cancels it too.

        Raises EngineError when the thread ends before, or has ended.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(caller=caller, loop=loop, tokens=loop.create_future())
        with self._changed:
            if self._refusal is not None:
                raise _repeated(self._refusal)
            self._waiting[request] = waiting
            self._new.append(request)
            self._attendance.arrive(caller)
        try:
            return await waiting.tokens
        finally:
            self._cancel(request)

    def _cancel(self, request: Request) -> None:
        """Where it is not answered yet, nobody waits for it any more."""
        with self._changed:
            waiting = self._waiting.pop(request, None)
            if waiting is not None:
                self._cancelled.append(request)
                self._attendance.leave(waiting.caller)
                self._changed.notify_all()
        if waiting is not None:
            self._attendance.check()

    def close(self) -> None:
        """End the thread after its forward pass and fail what still waits.

        Raises BackboneError when it does not end in time; what waits fails then too.
        """
        with self._changed:
            self.is_closing = True
            self._changed.notify_all()
        self._thread.join(self._stop_seconds)
        if self._thread.is_alive():
            found = f"the thread {self._thread.name} did not end in {self._stop_seconds:g} s"
            self._fail_all(EngineError(f"the engine stopped serving, and {found}"))
            raise BackboneError(
                f"stopping the engine failed: {found}, and training now would change weights "
                "under it; end this process and continue with --resume"
            )

    def _run(self) -> None:
        refusal = EngineError("the engine stopped serving")
        try:
            while self._hand_over():
                with waking_once():
                    for request, tokens in self._stepper.step():
                        self._deliver(request, tokens)
            self._stepper.cancel(self._unfinished())
        except BaseException as error:  # noqa: BLE001  # told to those who wait
            refusal = self._refusal_for(error)
        self._fail_all(refusal)

    def _refusal_for(self, error: BaseException) -> EngineError:
        try:
            refusal = EngineError(self._stepper.explain(error))
        except BaseException as another:  # noqa: BLE001  # those who wait are told all the same
            found, more = ("".join(format_exception_only(e)).strip() for e in (error, another))
            refusal = EngineError(f"the engine stopped with {found}; explaining it raised {more}")
        refusal.__cause__ = error
        return refusal

    def _hand_over(self) -> bool:
        """Wait for something to do, for callers who are to come, and for the turn; False at the
        end."""
        with self._changed:
            self._attendance.wait_for_turn(self)
            if self.is_closing:
                return False
            new, self._new = self._new, []
            cancelled, self._cancelled = self._cancelled, []
        if new:
            self._stepper.add(new)
        if cancelled:
            self._stepper.cancel(cancelled)
        return True

    def _unfinished(self) -> list[Request]:
        with self._changed:
            return [*self._waiting, *self._cancelled]

    def _deliver(self, request: Request, tokens: SampledTokens) -> None:
        with self._changed:
            waiting = self._waiting.pop(request, None)
            if waiting is None:
                return
            self._attendance.leave(waiting.caller)
        self._settle(waiting, tokens)

    def _fail_all(self, refusal: EngineError) -> None:
        with self._changed:
            self._refusal = refusal
            failed = list(self._waiting.values())
            self._waiting.clear()
            for waiting in failed:
                self._attendance.leave(waiting.caller)
            self._attendance.part(self)
        for waiting in failed:
            self._settle(waiting, _repeated(refusal))

    def _settle(self, waiting: _Waiting, outcome: SampledTokens | EngineError) -> None:
        def settle() -> None:
            if not waiting.tokens.done():
                if isinstance(outcome, EngineError):
                    waiting.tokens.set_exception(outcome)
                else:
                    waiting.tokens.set_result(outcome)
            self._attendance.check()

        run_in(waiting.loop, settle)


def _repeated(refusal: EngineError) -> EngineError:
    """One for each who is told: what is raised collects the frames that it passes."""
    failure = EngineError(str(refusal))
    failure.__cause__ = refusal.__cause__
    return failure
