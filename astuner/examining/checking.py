"""Carries out checks one after the other, each with a deadline, and keeps what they found.

A check that raises, or takes too long, is a finding of its own, and the others go on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from astuner.console import RunConsole
from astuner.errors import AstunerError, text_of
from astuner.examining.finding import DoctorFinding, Subject
from astuner.rollout.threads import DaemonThreads

logger = logging.getLogger(__name__)

Tell = Callable[[DoctorFinding], None]
Result = TypeVar("Result")

_CANCEL_SECONDS = 15.0
"""For what is cancelled to let go of what it holds; episodes may take ten of them."""
_LEAVE_SECONDS = 5.0


class CheckRunner:
    """The findings of one examination, in the order in which they were made."""

    def __init__(
        self, console: RunConsole, *, seconds: float, tell: Tell, subjects: frozenset[Subject]
    ) -> None:
        """`seconds` bounds each check; `tell` gets each finding as it is made. Of other `subjects`
        only what is wrong is kept: what was asked about may need it."""
        self.findings: list[DoctorFinding] = []
        self.seconds = seconds
        self._console, self._tell, self._subjects = console, tell, subjects
        self._threads = DaemonThreads()

    def add(self, *findings: DoctorFinding) -> None:
        for finding in findings:
            if finding.subject in self._subjects or finding.grade == "wrong":
                self._keep(finding)

    def _keep(self, finding: DoctorFinding) -> None:
        self.findings.append(finding)
        self._tell(finding)

    async def run(
        self,
        subject: Subject,
        check: str,
        work: Callable[[], Awaitable[Sequence[DoctorFinding]]],
        *,
        num_deadlines: float = 1.0,
    ) -> bool:
        """Keep what `work` finds. False where it raised or took longer than it may."""
        seconds = self.seconds * num_deadlines
        self._console.phase(f"{subject}: {check}")
        task = asyncio.ensure_future(work())
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_CANCEL_SECONDS)
        if not done:
            _ = task.done() and (task.cancelled() or task.exception())  # nobody else asks for it
            self._give_up(subject, check, f"it takes longer than {seconds:g} s")
            return False
        return self._taken(subject, check, task)

    def _taken(
        self, subject: Subject, check: str, task: asyncio.Future[Sequence[DoctorFinding]]
    ) -> bool:
        try:
            self.add(*task.result())
        except asyncio.CancelledError:
            self._give_up(subject, check, "user code cancelled it")
            return False
        except AstunerError as error:
            self._give_up(subject, check, str(error))
            return False
        except Exception as error:  # the others go on, and the reason is told
            logger.debug("check %s of %s raised", check, subject, exc_info=error)
            reason = f"{type(error).__name__}: {text_of(error)}"
            self._give_up(subject, check, reason)
            return False
        return True

    async def prepare(self, work: Callable[[], None]) -> None:
        """What has no finding, and no deadline."""
        self._console.phase("loading libraries")
        await self.in_thread(work)

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """What computes for long, beside the loop. Left behind where it is not waited for."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def close(self) -> None:
        """Give threads that are done a moment to end."""
        self._threads.join(_LEAVE_SECONDS)

    def _give_up(self, subject: Subject, check: str, reason: str) -> None:
        """Told whatever was asked about: something else may have needed it."""
        self._keep(DoctorFinding(subject=subject, check=check, grade="unchecked", text=reason))
