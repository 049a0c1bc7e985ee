"""`execute_python_code` as AgentScope 1.x has it, with the code in a sandbox.

Name, arguments and the form of the answer are the same. AgentScope tells the model of a tool what
its docstring says.
"""

import logging
import sys
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from astuner.config.load import packaged_section
from astuner.config.sections.sandbox import SandboxSettings
from astuner.errors import ConfigError, SandboxError
from astuner.sandbox.sandbox import Sandbox, SandboxResult, open_sandbox

if TYPE_CHECKING:
    from agentscope.tool import ToolResponse

logger = logging.getLogger(__name__)

PythonTool = Callable[..., Awaitable[Any]]

_FILE = "main.py"
_UTF8 = {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}


def python_tool(config: Any = None, *, otherwise: PythonTool | None = None) -> PythonTool:
    """`execute_python_code` for a toolkit, by the settings astuner.sandbox of `model_tuner.config`.

    Without a configuration it has the packaged settings. Where this system permits no sandbox that
    is strong enough, `otherwise` is given instead, which the log says once; without one that raises
    ConfigError.
    """
    settings = _settings_of(config)
    try:
        sandbox = open_sandbox(settings)
    except ConfigError as error:
        if otherwise is None:
            raise
        _say_that_there_is_none(str(error))
        return otherwise

    async def execute_python_code(code: str, timeout: float = 300, **kwargs: Any) -> "ToolResponse":
        longest = settings.timeout_seconds
        seconds = longest if timeout is None else min(longest, timeout)
        return _as_response(await _run(sandbox, code, seconds))

    execute_python_code.__doc__ = _find_documentation()
    execute_python_code.__qualname__ = execute_python_code.__name__
    return execute_python_code


async def execute_python_code(code: str, timeout: float = 300, **kwargs: Any) -> "ToolResponse":
    """Execute Python code in a sandbox and capture its return code, standard output and error.
    Print what you want to see. There is no network, and files are gone afterwards.

    Args:
        code (`str`):
            The Python code to be executed.
        timeout (`float`, defaults to `300`):
            The maximum time (in seconds) allowed for the code to run.

    Returns:
        `ToolResponse`:
            Return code, standard output and standard error of the code.
    """
    return await _packaged_tool()(code, timeout)


def _find_documentation() -> str | None:
    """That of AgentScope 1.x where it is installed, so that a model reads the same prompt."""
    try:
        from agentscope.tool import execute_python_code as original
    except ImportError:
        return execute_python_code.__doc__
    return original.__doc__


@cache
def _packaged_tool() -> PythonTool:
    return python_tool()


def _settings_of(config: Any) -> SandboxSettings:
    section = getattr(getattr(config, "astuner", None), "sandbox", None)
    return SandboxSettings.model_validate(dict(section or packaged_section("sandbox")))


@cache
def _say_that_there_is_none(reason: str) -> None:
    logger.warning("NO SANDBOX: code that a model writes may do all that this user may: %s", reason)


async def _run(sandbox: Sandbox, code: str, seconds: float) -> str:
    command = [sys.executable, "-u", _FILE]
    try:
        result = await sandbox.run(
            command, files={_FILE: code}, environment=_UTF8, timeout_seconds=seconds
        )
    except SandboxError as error:
        return _text(-1, "", str(error))
    notes = [result.stderr] if result.stderr else []
    notes += _notes(result, seconds)
    code_or_end = -1 if result.exit_code is None else result.exit_code
    return _text(code_or_end, result.stdout, "\n".join(notes))


def _notes(result: SandboxResult, seconds: float) -> list[str]:
    notes = []
    if result.is_timed_out:
        notes.append(f"TimeoutError: The code execution exceeded the timeout of {seconds} seconds.")
    elif result.ended_by is not None:
        notes.append(f"The code execution exceeded its limit of {result.ended_by}.")
    if result.is_cut:
        notes.append("The output is cut, since it is too long.")
    return notes


def _text(returncode: int, stdout: str, stderr: str) -> str:
    return (
        f"<returncode>{returncode}</returncode><stdout>{stdout}</stdout><stderr>{stderr}</stderr>"
    )


def _as_response(text: str) -> "ToolResponse":
    from agentscope.message import TextBlock
    from agentscope.tool import ToolResponse

    return ToolResponse(content=[TextBlock(type="text", text=text)])
