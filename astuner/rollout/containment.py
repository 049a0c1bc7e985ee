"""Keeps user code from ending the run: what asyncio lets out of its loop stays in the episode.

A task in which `exit()` is called, or KeyboardInterrupt raised, ends the whole event loop, also
when it is a tool's task that an agent awaits by `asyncio.gather`. Inside `contained` both fail the
episode whose code did it, and nothing else. The user's own Ctrl-C is `Quit`, which passes.

A process that such code forks has the whole run in it, and ends where that code would return to it.
"""

import asyncio
import os
import traceback
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, NoReturn

from astuner.bridge import bridged
from astuner.errors import Escaped, Quit


@dataclass(slots=True)
class _Containment:
    """One piece of user code and all tasks that it starts."""

    error: Escaped | None = None
    """What one of them raised, if only to an `asyncio.gather` that gave it back as a value."""
    process: int = field(default_factory=os.getpid)


_containment: ContextVar[_Containment | None] = ContextVar("containment", default=None)


def contained(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task for user code. It and the tasks that it starts raise Escaped in place of SystemExit,
    KeyboardInterrupt and GeneratorExit. Where one of them did, the task raises it at its end."""
    loop = asyncio.get_running_loop()
    _contain_tasks(loop)
    containment = _Containment()
    context = copy_context()
    context.run(_containment.set, containment)
    return loop.create_task(_WholeCoroutine(work, containment), context=context)


def _contain_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Tasks that user code starts in this loop are wrapped, all others are made as before."""
    earlier = loop.get_task_factory()
    if isinstance(earlier, _TaskFactory):
        return
    loop.set_task_factory(_TaskFactory(earlier))


class _TaskFactory:
    def __init__(self, earlier: Any) -> None:
        self._make = earlier or _make_task

    def __call__(self, loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> Any:
        containment = (kwargs.get("context") or copy_context()).get(_containment)
        if containment is not None:
            work = _ContainedCoroutine(bridged(work), containment)
        return self._make(loop, work, **kwargs)


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> asyncio.Task[Any]:
    return asyncio.Task(work, loop=loop, **kwargs)


class _ContainedCoroutine(Coroutine[Any, Any, Any]):
    """The same coroutine, step by step; a task of it is cancelled and shown like one of `work`."""

    def __init__(self, work: Coroutine[Any, Any, Any], containment: _Containment) -> None:
        self._work = work
        self._containment = containment

    def send(self, value: Any) -> Any:
        with _kept_inside(self._containment):
            return self._work.send(value)

    def throw(self, *error: Any) -> Any:
        with _kept_inside(self._containment):
            return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Any:
        return self._work.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


class _WholeCoroutine(_ContainedCoroutine):
    """That of the user code itself: it does not end well where one of its tasks did not."""

    def send(self, value: Any) -> Any:
        try:
            return super().send(value)
        except StopIteration:
            self._check()
            raise

    def throw(self, *error: Any) -> Any:
        try:
            return super().throw(*error)
        except StopIteration:
            self._check()
            raise

    def _check(self) -> None:
        if self._containment.error is not None:
            raise self._containment.error


@contextmanager
def _kept_inside(containment: _Containment) -> Iterator[None]:
    error: BaseException | None = None
    try:
        yield
    except Quit:
        raise
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as caught:
        error = caught
        containment.error = Escaped.of(error)
        raise containment.error from error
    except BaseException as caught:
        error = caught
        raise
    finally:
        if os.getpid() != containment.process:
            _end_child(error)


def _end_child(error: BaseException | None) -> NoReturn:
    """End a forked process by what its code ended with: None where it waits for the event loop,
    which is the parent's. Nothing of the run ends in it."""
    code = 1
    if isinstance(error, StopIteration):
        code = 0
    elif isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        code = error.code or 0
    elif error is not None:
        traceback.print_exception(error)
    os._exit(code & 255)
