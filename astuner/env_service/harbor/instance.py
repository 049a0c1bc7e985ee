"""An episode in a task folder: commands of an agent, then the verifier, each a run in the sandbox.

Between runs there are files and nothing else: every process of a run is dead when it ends. What the
agent may write to is its own folder of the host; the tests, their logs and the home folder are not
in it, so nothing that it leaves stands in for them.
"""

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from astuner.env_service.harbor.commands import DONE_WORD, TOOLS, Wish, read_wishes
from astuner.env_service.harbor.folder import HarborTask
from astuner.env_service.harbor.layout import lay_out, takes_more
from astuner.env_service.harbor.reward import NoReward, read_reward
from astuner.env_service.instance import EnvironmentStep
from astuner.errors import EnvServiceError, SandboxError
from astuner.sandbox.sandbox import Sandbox, SandboxResult
from astuner.sandbox.scratch import remove

_MAX_SHOWN = 10_000
"""Characters of an observation's output; what is longer loses its middle."""
_SHELL = shutil.which("bash") or "/bin/sh"


class HarborInstance:
    """See `Instance`. Its files lie in a scratch folder that goes with it."""

    tools = TOOLS

    def __init__(
        self, task: HarborTask, sandbox: Sandbox, scratch: Path, *, instance_id: str, max_bytes: int
    ) -> None:
        """In an empty scratch folder; blocks while it copies files. `max_bytes` is what the
        agent's files may take."""
        self.instance_id = instance_id
        self.messages: Sequence[Mapping[str, Any]] = [{"role": "user", "content": _opening(task)}]
        self.info: Mapping[str, Any] = {"task_id": task.task_id, "workdir": task.workdir}
        self._task, self._sandbox, self._max_bytes = task, sandbox, max_bytes
        self._scratch = scratch
        self._files = scratch / "files"
        self._mounts = lay_out(task.files, self._files)
        self._is_over = self._is_released = False

    async def step(self, action: Mapping[str, Any]) -> EnvironmentStep:
        """Run what the message asks for; see `commands`."""
        self._check("step", is_allowed=not self._is_over)
        messages = []
        for wish in read_wishes(action):
            messages.append(_answer(wish, await self._grant(wish)))
            if wish.is_end:
                self._is_over = True
                break
        is_full = await asyncio.to_thread(takes_more, self._files, self._max_bytes)
        if is_full:
            self._is_over = True
            messages[-1]["content"] += "\n[the files take more room than there is: this is the end]"
        terminated = self._is_over and not is_full
        return EnvironmentStep(
            messages=messages, reward=None, terminated=terminated, truncated=is_full
        )

    async def evaluate(self, *, sparse: bool = False) -> float:
        """What tests/test.sh says of the files as they are. `sparse`: 1 where it is at least 1."""
        self._check("evaluate")
        logs = await asyncio.to_thread(self._fresh_logs)
        result = await self._run(
            ["/bin/sh", "-c", "/tests/test.sh"],
            mounts={**self._mounts, "/logs": logs},
            read_only={"/tests": self._scratch / "tests"},
            environment={**self._task.environment, **self._task.verifier_environment},
            timeout_seconds=self._task.verifier_seconds,
        )
        try:
            if result.ended_by is not None:
                raise NoReward(f"it was ended by its limit of {result.ended_by}")
            reward = read_reward(logs / "verifier")
        except NoReward as error:
            said = " ".join(_said(result).split())
            raise EnvServiceError(
                f"{self._where}: tests/test.sh gave no reward: {error}; it has to write a number "
                f"to /logs/verifier/reward.txt; it said: {said[-500:]}"
            ) from None
        return float(reward >= 1) if sparse else reward

    async def release(self) -> None:
        if not self._is_released:
            self._is_released = True
            await asyncio.to_thread(remove, self._scratch)

    @property
    def _where(self) -> str:
        return f"harbor task {self._task.task_id}"

    def _check(self, what: str, *, is_allowed: bool = True) -> None:
        if self._is_released or not is_allowed:
            state = "it was released" if self._is_released else "the episode was over"
            raise EnvServiceError(f"{self._where}: {what} after {state}; make no call then")

    async def _grant(self, wish: Wish) -> str:
        if wish.is_end:
            return "The task is handed in."
        if wish.command is None:
            return wish.problem or ""
        result = await self._run(
            [_SHELL, "-c", wish.command], mounts=self._mounts, environment=self._task.environment
        )
        return _said(result)

    async def _run(self, command: Sequence[str], **options: Any) -> SandboxResult:
        try:
            return await self._sandbox.run(command, folder=self._task.workdir, **options)
        except SandboxError as error:
            raise EnvServiceError(f"{self._where}: {error}") from error

    def _fresh_logs(self) -> Path:
        """An empty /logs for this verdict, and the tests readable for whoever runs them."""
        tests, logs = self._scratch / "tests", self._scratch / "logs"
        for folder in (tests, logs):
            if folder.exists():
                remove(folder)
        shutil.copytree(self._task.tests, tests)
        for path in (tests, *tests.rglob("*")):
            is_run = path.is_dir() or path.name == "test.sh"
            path.chmod(0o755 if is_run else 0o644 | path.stat().st_mode & 0o111)
        for name in ("verifier", "agent", "artifacts"):
            (logs / name).mkdir(parents=True)
        return logs


def _opening(task: HarborTask) -> str:
    return (
        f"{task.instruction}\n\n"
        f"You work in the folder {task.workdir} of a Linux machine without a network. Answer with "
        "one command or script at a time, in a block that begins with ```bash, or with the tool "
        "run_command; what it prints comes back. Each runs in a shell of its own, which begins in "
        f"{task.workdir}: files in {' and '.join(task.files.mounts)} stay, variables and "
        f"processes do not. When the task is done, write {DONE_WORD} alone on a line, or call the "
        "tool of that name."
    )


def _answer(wish: Wish, text: str) -> dict[str, Any]:
    if not wish.is_call:
        return {"role": "user", "content": text}
    call_id = {} if wish.call_id is None else {"tool_call_id": wish.call_id}
    return {"role": "tool", "content": text, **call_id}


def _said(result: SandboxResult) -> str:
    parts = [_shortened(result.stdout.rstrip("\n"))]
    if result.stderr.strip():
        parts.append("[stderr]\n" + _shortened(result.stderr.rstrip("\n")))
    if result.is_cut:
        parts.append("[it printed more than is kept]")
    if result.ended_by is not None:
        parts.append(f"[ended by its limit: {result.ended_by}]")
    elif result.exit_code:
        parts.append(f"[exit code {result.exit_code}]")
    return "\n".join(part for part in parts if part) or "[no output]"


def _shortened(text: str) -> str:
    if len(text) <= _MAX_SHOWN:
        return text
    half = _MAX_SHOWN // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"
