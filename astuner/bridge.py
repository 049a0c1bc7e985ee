"""Plain calls that wait for asynchronous work, without blocking the event loop.

A workflow writes `gym_env.step(...)` without await, in a coroutine of the event loop that all
episodes share. Inside `bridging` its tasks run on stacks of their own (greenlets).
`await_now` leaves such a stack in the middle of the plain call, lets the task wait for the work as
for any other, and comes back with what came of it. Cancellation and errors take the same way.
"""

import contextlib
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

from greenlet import error as GreenletError
from greenlet import getcurrent, greenlet

_is_bridging: ContextVar[bool] = ContextVar("is_bridging", default=False)


@contextlib.contextmanager
def bridging() -> Iterator[None]:
    """Tasks of user code that are started inside, and all that these start, may use `await_now`."""
    token = _is_bridging.set(True)
    try:
        yield
    finally:
        _is_bridging.reset(token)


def bridged(work: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
    """The coroutine as a task is to run it: on a stack of its own inside `bridging`."""
    return _BridgedCoroutine(work) if _is_bridging.get() else work


def is_on_bridge() -> bool:
    """Whether `await_now` may be called here."""
    return isinstance(getcurrent(), _Stack)


def await_now(work: Coroutine[Any, Any, Any]) -> Any:
    """What the coroutine returns, waited for by the task that this plain call is made in.

    Raises what it raises. Only where `is_on_bridge`.
    """
    stack = getcurrent()
    assert isinstance(stack, _Stack)
    return stack.drive(work)


class _Stack(greenlet):
    """What one task runs on; its parent is whoever drives the task."""

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.drive(work)

    def drive(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run the coroutine here, and hand whatever it waits for to the parent."""
        step: Callable[[Any], Any] = work.send
        given: Any = None
        while True:
            try:
                waited_for = step(given)
            except StopIteration as done:
                return done.value
            assert self.parent is not None
            try:
                step, given = work.send, self.parent.switch(waited_for)
            except BaseException as error:  # noqa: BLE001  # it is thrown into the coroutine
                step, given = work.throw, error


class _BridgedCoroutine(Coroutine[Any, Any, Any]):
    """The same coroutine, each step of it on a stack that may be left in the middle."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self._work = work
        self._stack = _Stack()
        self._is_begun = False

    def send(self, value: Any) -> Any:
        self._enter()
        if self._is_begun:
            return self._outcome(self._stack.switch(value))
        self._is_begun = True
        # A task makes all its steps in one context; a new stack would have an empty one.
        self._stack.gr_context = getcurrent().gr_context
        return self._outcome(self._stack.switch(self._work))

    def throw(self, *error: Any) -> Any:
        if not self._is_begun:
            return self._work.throw(*error)
        self._enter()
        return self._outcome(self._stack.throw(*error))

    def close(self) -> None:
        """As of any coroutine, also where it stands in a plain call."""
        if not self._is_begun or self._stack.dead:
            self._work.close()
            return
        with contextlib.suppress(GeneratorExit, StopIteration):
            self.throw(GeneratorExit())
            raise RuntimeError("coroutine ignored GeneratorExit")

    def __del__(self) -> None:
        # What stands on a stack keeps itself alive. From another thread it cannot be reached.
        with contextlib.suppress(GreenletError):
            self.close()

    def _enter(self) -> None:
        self._stack.parent = getcurrent()

    def _outcome(self, given: Any) -> Any:
        if self._stack.dead:
            raise StopIteration(given)
        return given

    def __await__(self) -> Any:
        return self._work.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
