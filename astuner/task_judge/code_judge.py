"""The judge for tasks whose answer is a program: runs a task's tests against it in the sandbox.

The tests are there only once the agent is done, and never in the sandbox of its code: a program
prints and is compared out here; a function is called from another sandbox (`code/pair.py`).
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from astuner.calling import uncounted
from astuner.config.load import packaged_section
from astuner.config.sections.sandbox import SandboxSettings
from astuner.config.sections.task_judge import CodeJudgeSettings
from astuner.errors import ConfigError, JudgeError, SandboxError
from astuner.sandbox import Sandbox, open_sandbox
from astuner.task_judge.base_judge import BaseJudge
from astuner.task_judge.code.pair import UTF8, TestOutcome, run_pair
from astuner.task_judge.code.tests_of_task import (
    CallTest,
    InputTest,
    TaskTests,
    code_in,
    tests_of,
)
from astuner.task_judge.final_text import final_text
from astuner.types import Judgement, WorkflowOutput, WorkflowTask

MAX_CODE_CHARS = 200_000
_KNOWN_REFERENCES = 4096
_INPUT = ".stdin"
_PROBE_CODE = "def twice(n):\n    return 2 * n\n"
_PROBE_TEST = "assert twice(2) == 4"


class CodeJudge(BaseJudge):
    """The share of the task's tests that the code passes, or all or nothing by `reward`; a success
    where it passes all.

    Code that hangs, floods, exits or eats memory fails the test. Raises JudgeError where the
    sandbox fails or the tests are broken, ConfigError in `prepare` where there is no sandbox.
    """

    def __init__(self, config: Any = None) -> None:
        """Reads `task_judge.code` and `sandbox`; packaged settings without `config`."""
        super().__init__(config)
        section = packaged_section if config is None else config.astuner.__getitem__
        self._settings = CodeJudgeSettings.model_validate(dict(section("task_judge")["code"]))
        self._sandbox_settings = SandboxSettings.model_validate(dict(section("sandbox")))
        self._opened: Sandbox | None = None
        self._places = asyncio.Semaphore(self._settings.num_parallel)
        self._proven: dict[bytes, None] = {}
        """References that passed their tests, by both, oldest first. Of one that did not, another
        time may tell another thing: the machine may have been busy."""

    async def prepare(self) -> None:
        """Have a sandbox, and see that it runs what this judge needs."""
        longest = self._settings.total_seconds
        if (
            self.config is not None
            and longest >= self.config.astuner.task_judge.judge_timeout_seconds
        ):
            raise ConfigError(
                f"task_judge.code.total_seconds: {longest:g} is not below "
                "task_judge.judge_timeout_seconds, so that code that hangs would fail the judge; "
                "raise that one"
            )
        if (reason := await self._broken_place()) is not None:
            raise ConfigError(
                f"task_judge.code: the sandbox ({self._sandbox.kind}) does not run a program that "
                f"is known to be right: {reason}; see docs/sandbox.md, or mend "
                "task_judge.code.command"
            )

    async def compute_reward(
        self, workflow_task: WorkflowTask, workflow_output: WorkflowOutput
    ) -> Judgement:
        tests = tests_of(workflow_task, self._settings.tests_field)
        self._check_language(workflow_task, tests)
        code = code_in(final_text(workflow_task, workflow_output))
        if len(code) > MAX_CODE_CHARS:
            return self._judgement([], tests, note=f"The code is over {MAX_CODE_CHARS} characters.")
        try:
            async with self._place():
                outcomes = await self._run_all(code, tests)
                with uncounted():
                    await self._check_tests(workflow_task, tests, outcomes)
        except SandboxError as error:
            raise JudgeError(f"cannot judge task {workflow_task.task_id}: {error}") from error
        return self._judgement(outcomes, tests, note=_note(outcomes, tests))

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of `num_parallel`. Answers that hang hold theirs for long, which is not the fault of
        those that wait."""
        with uncounted():
            await self._places.acquire()
        try:
            yield
        finally:
            self._places.release()

    @property
    def _sandbox(self) -> Sandbox:
        if self._opened is None:
            sandbox = open_sandbox(self._sandbox_settings)
            if sandbox.kind == "none" and not self._settings.accept_no_isolation:
                raise ConfigError(
                    "task_judge.code: the sandbox is of kind none, in which code reads the tests; "
                    "set sandbox.require to landlock or bubblewrap, or "
                    "task_judge.code.accept_no_isolation=true"
                )
            self._opened = sandbox
        return self._opened

    def _check_language(self, task: WorkflowTask, tests: TaskTests) -> None:
        calls = any(isinstance(test, CallTest) for test in tests.tests)
        if calls and self._settings.command is not None:
            raise JudgeError(
                f"cannot judge task {task.task_id}: its tests call Python, and "
                "task_judge.code.command runs another language; give tests of {input, output}"
            )

    async def _run_all(self, code: str, tests: TaskTests) -> list[TestOutcome]:
        """One after the other, until `total_seconds` are over; the rest fails."""
        outcomes: list[TestOutcome] = []
        end = time.monotonic() + self._settings.total_seconds
        whole = f"{tests.prefix}\n{code}" if tests.prefix else code
        for test in tests.tests:
            left = end - time.monotonic()
            if left <= 0:
                reason = "no time is left of task_judge.code.total_seconds"
                outcomes.append(TestOutcome(outcome="failed", reason=reason))
                continue
            seconds = min(self._settings.timeout_seconds, left)
            outcomes.append(await self._run_one(whole, test, tests, seconds))
        return outcomes

    async def _run_one(
        self, code: str, test: InputTest | CallTest, tests: TaskTests, seconds: float
    ) -> TestOutcome:
        if isinstance(test, InputTest):
            return await self._run_program(code, test, seconds)
        return await run_pair(
            self._sandbox,
            code=code,
            test=test.test,
            setup=tests.setup,
            entry_point=tests.entry_point,
            timeout_seconds=seconds,
        )

    async def _run_program(self, code: str, test: InputTest, seconds: float) -> TestOutcome:
        command = self._settings.command or f"python {self._settings.file_name}"
        result = await self._sandbox.run(
            ["sh", "-c", f'exec sh -c "$1" < {_INPUT}', "sh", command],
            files={self._settings.file_name: code, _INPUT: test.input},
            environment=UTF8,
            timeout_seconds=seconds,
        )
        reason = ""
        if result.ended_by is not None:
            reason = f"ended by its limit of {result.ended_by}"
        elif result.exit_code != 0:
            last = result.stderr.strip().rpartition("\n")[2]
            reason = f"exit code {result.exit_code}: {last[:200]}"
        elif result.is_cut or _lines(result.stdout) != _lines(test.output):
            reason = "another output than expected"
        outcome = "failed" if reason else "passed"
        if result.exit_code in (126, 127):
            outcome = "untold"
        return TestOutcome(outcome=outcome, reason=reason)

    async def _check_tests(
        self, task: WorkflowTask, tests: TaskTests, outcomes: Sequence[TestOutcome]
    ) -> None:
        """Raises JudgeError where not the code is to blame."""
        if all(found.outcome == "passed" for found in outcomes):
            return
        is_proven = await self._is_proven(task, tests)
        for number, found in enumerate(outcomes, start=1):
            if found.outcome == "broken" and not is_proven:
                raise JudgeError(
                    f"cannot judge task {task.task_id}: its test {number} cannot be run: "
                    f"{found.reason}; mend the test, or leave the task out"
                )
        if any(found.outcome == "untold" for found in outcomes):
            reason = await self._broken_place()
            if reason is not None:
                raise JudgeError(
                    f"cannot judge task {task.task_id}: the sandbox no longer runs programs: "
                    f"{reason}; see docs/sandbox.md"
                )

    async def _is_proven(self, task: WorkflowTask, tests: TaskTests) -> bool:
        """Whether the task's own solution passes the tests; False where it has none."""
        reference = task.task.metadata.get(self._settings.reference_field)
        if not isinstance(reference, str):
            return False
        code = code_in(reference)
        key = hashlib.blake2b(repr((code, tests)).encode(errors="replace")).digest()
        if key in self._proven:
            return True
        outcomes = await self._run_all(code, tests)
        if any(found.outcome != "passed" for found in outcomes):
            raise JudgeError(
                f"cannot judge task {task.task_id}: its own solution, metadata"
                f"[{self._settings.reference_field!r}], fails its tests: {_note(outcomes, tests)} "
                "Mend them, or leave the task out"
            )
        self._proven[key] = None
        while len(self._proven) > _KNOWN_REFERENCES:
            del self._proven[next(iter(self._proven))]
        return True

    async def _broken_place(self) -> str | None:
        """Why the sandbox does not run what must run; None where it does."""
        sandbox = self._sandbox
        seconds = self._sandbox_settings.timeout_seconds
        if (command := self._settings.command) is not None:
            program = command.split()[0]
            found = await sandbox.run(f"command -v {program}", timeout_seconds=seconds)
            return None if found.exit_code == 0 else f"{program} is not there"
        probe = await run_pair(
            sandbox,
            code=_PROBE_CODE,
            test=_PROBE_TEST,
            setup="",
            entry_point=None,
            timeout_seconds=seconds,
        )
        return None if probe.outcome == "passed" else probe.reason

    def _judgement(
        self, outcomes: Sequence[TestOutcome], tests: TaskTests, *, note: str
    ) -> Judgement:
        num_passed = sum(found.outcome == "passed" for found in outcomes)
        share, is_whole = num_passed / len(tests.tests), num_passed == len(tests.tests)
        reward = share if self._settings.reward == "share" else float(is_whole)
        return Judgement(reward=reward, is_success=is_whole, note=note, parts={"passed": share})


def _note(outcomes: Sequence[TestOutcome], tests: TaskTests) -> str:
    for number, found in enumerate(outcomes, start=1):
        if found.outcome != "passed":
            return f"Test {number} of {len(tests.tests)} failed: {found.reason}."
    return f"All {len(tests.tests)} tests passed."


def _lines(text: str) -> list[str]:
    """Without what nobody sees: spaces at the ends of lines, and empty lines at the end."""
    return [line.rstrip() for line in text.rstrip().splitlines()]
