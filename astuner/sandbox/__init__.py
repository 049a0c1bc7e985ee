"""A place where code may run that a model wrote: `open_sandbox(settings)`, then `run`."""

from astuner.sandbox.python_tool import execute_python_code, python_tool
from astuner.sandbox.sandbox import Sandbox, SandboxResult, open_sandbox

__all__ = ["Sandbox", "SandboxResult", "execute_python_code", "open_sandbox", "python_tool"]
