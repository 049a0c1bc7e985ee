"""Every draft as it came, in one file that only grows: what a generation goes on from.

    {"kind": "draft", "turn": 17, "identity": "5b0c…", "state": "passed", "draft": {…}, …}
    {"kind": "pass_rate", "turn": 17, "identity": "5b0c…", "num_solved": 3, "num_judged": 8}
    {"kind": "spent", "usage": {"answerable": {…}}}    what is no draft's: left half-way, measuring
    {"kind": "complete", "taken": [0, 2, 17]}          the set was whole, with these turns' tasks

A turn may have several lines where questions about it got no answer; the last one counts.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from astuner.errors import AstunerError, UnreadableError
from astuner.llm import LlmUsage
from astuner.run_dir import append_lines, json_line, read_json_lines
from astuner.task_generation.draft import GateRejection, TaskDraft
from astuner.task_generation.drafted import DraftedTurn
from astuner.task_generation.generated_set import ANSWERS_DIR
from astuner.task_generation.pass_rate import PassRate
from astuner.task_generation.plan import DraftPlan, identity_of

UsageByGate = Mapping[str, LlmUsage]


class _LedgerRow(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _TurnRow(_LedgerRow):
    turn: int
    identity: str
    """Of what was asked for."""


class DraftLine(_TurnRow):
    kind: Literal["draft"] = "draft"
    state: Literal["passed", "rejected", "failed"]
    gate: str | None
    reason: str | None
    draft: TaskDraft | None
    notes: dict[str, Any]
    usage: dict[str, LlmUsage]


class RateLine(_TurnRow):
    kind: Literal["pass_rate"] = "pass_rate"
    num_solved: int
    num_judged: int


class SpentLine(_LedgerRow):
    kind: Literal["spent"] = "spent"
    usage: dict[str, LlmUsage]


class CompleteLine(_LedgerRow):
    kind: Literal["complete"] = "complete"
    taken: list[int]


LedgerLine = Annotated[DraftLine | RateLine | SpentLine | CompleteLine, Field(discriminator="kind")]
_LINE: TypeAdapter[Any] = TypeAdapter(LedgerLine)


@dataclass(slots=True, kw_only=True)
class LedgerContent:
    """What earlier starts left; filled while the file is read."""

    drafted: dict[int, DraftedTurn] = field(default_factory=dict)
    """By turn; without those that got no answer."""
    rates: dict[int, PassRate] = field(default_factory=dict)
    complete: list[list[int]] = field(default_factory=list)
    """For each time that the set was whole, the turns of the tasks that it was given then."""
    usages: list[tuple[UsageByGate, bool]] = field(default_factory=list)
    """What was spent, and whether it is all that a draft took."""
    num_foreign: int = 0
    """Lines about turns that are not of this plan."""


class Ledger:
    """The file of one set. Whoever holds it holds the lock of the folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: deque[bytes] = deque()
        self._lock = threading.Lock()

    @property
    def is_torn(self) -> bool:
        """Whether a kill left half a line at the end."""
        if not self._path.is_file() or self._path.stat().st_size == 0:
            return False
        with self._path.open("rb") as file:
            file.seek(-1, 2)
            return file.read(1) != b"\n"

    def read(self, plan: DraftPlan) -> LedgerContent:
        """Raises UnreadableError for a line that is none."""
        content = LedgerContent()
        if not self._path.exists():
            return content
        num_read = 0
        try:
            for row in read_json_lines(self._path):
                _take(_LINE.validate_python(row), content, plan)
                num_read += 1
        except (AstunerError, OSError, RecursionError, ValidationError) as error:
            found = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise UnreadableError(
                f"{self._path}:{num_read + 1}: the line is none of a ledger: {found}; the file was "
                "changed by hand, or is of another version; restore it, or delete it to make the "
                f"set anew, for which no answer in {ANSWERS_DIR}/ is paid again"
            ) from error
        return content

    async def record(self, line: LedgerLine) -> None:
        """Returns once the disk has it."""
        self.hold(line)
        await asyncio.to_thread(self.write)

    def hold(self, line: LedgerLine) -> None:
        """Have it written with the next ones."""
        row = line.model_dump(mode="json")
        self._waiting.append(json_line(row, where=str(self._path)))

    def write(self) -> None:
        """All that is held. An fsync may take longer than drafts need to come, so it is shared by
        all that came meanwhile."""
        with self._lock:
            lines = [self._waiting[index] for index in range(len(self._waiting))]
            if lines:
                append_lines(self._path, lines)
            for _ in lines:
                self._waiting.popleft()


def draft_line(drafted: DraftedTurn, usage: UsageByGate) -> DraftLine:
    rejection = drafted.rejection
    return DraftLine(
        turn=drafted.turn.number,
        identity=identity_of(drafted.turn),
        state="failed" if drafted.failure else "rejected" if rejection else "passed",
        gate=rejection and rejection.gate,
        reason=drafted.failure or (rejection and rejection.reason),
        draft=drafted.draft,
        notes=dict(drafted.notes),
        usage=dict(usage),
    )


def _take(line: LedgerLine, content: LedgerContent, plan: DraftPlan) -> None:
    if isinstance(line, CompleteLine):
        content.complete.append(line.taken)
        return
    if isinstance(line, DraftLine | SpentLine):
        content.usages.append((line.usage, isinstance(line, DraftLine)))
    if isinstance(line, SpentLine):
        return
    turn = plan.turn(line.turn)
    if turn is None or identity_of(turn) != line.identity:
        content.num_foreign += 1
    elif isinstance(line, RateLine):
        content.rates[line.turn] = PassRate(num_solved=line.num_solved, num_judged=line.num_judged)
    elif line.state != "failed":
        rejection = None
        if line.state == "rejected":
            rejection = GateRejection(gate=line.gate or "", reason=line.reason or "")
        content.drafted[line.turn] = DraftedTurn(
            turn=turn, draft=line.draft, notes=line.notes, rejection=rejection, failure=None
        )
