"""Which tasks or drafts of a generated set somebody wants to see."""

from dataclasses import dataclass

from astuner.logview.reading.set_line import SetLine


@dataclass(frozen=True, slots=True, kw_only=True)
class SetQuery:
    """What has all of these; None asks for nothing, and empty for what has no such name."""

    side: str | None = None
    gate: str | None = None
    document: str | None = None
    style: str | None = None
    difficulty: str | None = None
    min_rate: float | None = None
    """A task whose pass rate is not known has none of these."""
    max_rate: float | None = None

    def holds(self, line: SetLine) -> bool:
        return (
            self.side in (None, line.side)
            and self.gate in (None, line.gate)
            and self.document in (None, line.document)
            and self.style in (None, line.style)
            and self.difficulty in (None, line.difficulty)
            and self._holds_rate(line.pass_rate)
        )

    def _holds_rate(self, rate: float | None) -> bool:
        if self.min_rate is None and self.max_rate is None:
            return True
        low = 0.0 if self.min_rate is None else self.min_rate
        high = 1.0 if self.max_rate is None else self.max_rate
        return rate is not None and low <= rate <= high
