"""The error tree. Every message says what failed, where, what was found and what to do.

AstunerError
├── ConfigError            a setting, file or path that the user gave (exit code 2)
│   └── NotFoundError      a run, a step or an episode that is asked for is not there
├── UnreadableError        what a run wrote is there, and cannot be read
├── TaskReadError          a task source that cannot be read
├── EpisodeError           one attempt failed; recorded as data, never reward 0
│   ├── WorkflowError      the user's workflow raised, hung or returned something else
│   ├── EngineError        the model could not answer
│   │   └── RequestError   the call asks for what cannot be answered
│   ├── JudgeError         the judge raised, hung or gave no number
│   ├── SurroundingError   what an episode runs in could not be had
│   ├── EnvServiceError    the environment service failed
│   ├── SandboxError       code could not be run at all; code that fails is no error
│   └── LlmError           a model that is asked for help gave no answer
│       └── LlmAnswerError it did, and twice not in the form that was asked for
├── LlmBudgetError         what such models may cost is used up; ends the run
└── BackboneError          loading, training or saving failed (exit code 1)
"""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self


class AstunerError(Exception):
    """Root of the tree. Built from one message only, so every member can be pickled."""


class ConfigError(AstunerError):
    """A setting, file or import path given by the user is wrong."""


class NotFoundError(ConfigError):
    """A run, a step or an episode that somebody asked for is not there."""


class UnreadableError(AstunerError):
    """Something that a run wrote is torn, changed, of an unknown format, or gone by now."""


class TaskReadError(AstunerError):
    """Tasks could not be read from their source."""


class TraceSourceError(AstunerError):
    """A place with traces could not be read at all."""


class EpisodeError(AstunerError):
    """One episode failed. The group goes on without it."""


class WorkflowError(EpisodeError):
    """The user's workflow raised, hung, or returned something other than a WorkflowOutput."""


class EngineError(EpisodeError):
    """The model could not answer a call."""


class RequestError(EngineError):
    """A model call that cannot be answered as it was made; asking again changes nothing."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        """The field of the request that is wrong; None when it is not one field."""


class JudgeError(EpisodeError):
    """The judge raised, hung, or gave something other than a finite number."""


class SurroundingError(EpisodeError):
    """What an episode needs around it, such as an environment, could not be had."""


class EnvServiceError(EpisodeError):
    """The environment service, or an environment in it, failed or did not answer in time."""

    def __init__(self, message: str, code: str | None = None, is_retriable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        """What the server calls it, such as environment_died; None where it gave no name."""
        self.is_retriable = is_retriable
        """Whether the same request may succeed later, as the server says."""


class SandboxError(EpisodeError):
    """Code could not be run as it was asked for. Code that ran and failed is a result."""


class LlmError(EpisodeError):
    """A model that is asked for help, such as a judge's, gave no answer to one question.

    An episode error, so that it passes `boundary` as it is and a judge that could not ask costs one
    episode; too many of them stop the run like other failures. What no further question could mend
    is none: a refused key is a ConfigError, a used-up budget an LlmBudgetError.
    """


class LlmAnswerError(LlmError):
    """The answer did not have the form that was asked for, also when asked once more."""


class LlmBudgetError(AstunerError):
    """astuner.llm.max_calls or max_tokens is used up.

    No episode error: going on would leave out all episodes whose judge has no cached answer, and
    train on whatever remains.
    """


class BackboneError(AstunerError):
    """Loading a model, training on samples or saving a checkpoint failed."""


class LoopBlocked(BaseException):
    """User code blocks the event loop and swallows errors. Only `boundary` catches it."""


class Quit(KeyboardInterrupt):
    """The user, or the system, ends the process at once by a signal. No boundary catches it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class Escaped(Exception):
    """User code raised what ends more than itself; its episode fails in place of that."""

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """The same for SystemExit, KeyboardInterrupt, GeneratorExit and asyncio.CancelledError."""
        if isinstance(error, SystemExit):
            return cls(f"called sys.exit({_said(repr, error.code)}); raise an error instead")
        is_cancellation = isinstance(error, asyncio.CancelledError)
        name = "asyncio.CancelledError" if is_cancellation else type(error).__name__
        return cls(f"user code raised {name}; catch it there, or raise another error")


def exit_code_of(error: BaseException) -> int:
    """Of the command that the error ends: 2 for bad usage or configuration, 128 and its number for
    a signal, 1 for anything else."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + (error.signal_number if isinstance(error, Quit) else signal.SIGINT)
    return 2 if isinstance(error, ConfigError | TaskReadError) else 1


def described(error: BaseException) -> str:
    """Class and message of an error of user code, whose text may be code that fails too."""
    return f"{type(error).__name__}: {text_of(error)}"


def text_of(error: BaseException) -> str:
    """Its message, likewise."""
    return _said(str, error)


def _said(tell: Callable[[Any], str], value: Any) -> str:
    try:
        return tell(value)
    except Quit:
        raise
    except BaseException as error:  # noqa: BLE001  # user code, which exits as well as any other
        return f"(its text cannot be made: {type(error).__name__})"


@contextmanager
def boundary(kind: type[EpisodeError], what: str) -> Iterator[None]:
    """Turn whatever user code raises into `kind`; errors of the tree pass through unchanged, and so
    do a cancellation and the user's own end of the run."""
    try:
        yield
    except (AstunerError, asyncio.CancelledError, GeneratorExit, Quit):
        raise
    except (SystemExit, KeyboardInterrupt) as error:
        raise kind(f"{what}: {Escaped.of(error)}") from error
    except Escaped as error:
        raise kind(f"{what}: {error}") from error
    except BaseException as error:
        raise kind(f"{what}: {described(error)}") from error
