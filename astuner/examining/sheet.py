"""Findings as lines for a person."""

from collections.abc import Sequence

from astuner.console import duration
from astuner.examining.examination import Examined
from astuner.examining.finding import GRADES, DoctorFinding, Grade, num_of
from astuner.logview.terminal.sheet import BAD, DIM, GOOD, STRONG, Sheet

_WIDTH = 9
"""Of the longest grade."""
_SUBJECT_WIDTH = 9
_STYLES: dict[Grade, str] = {"fine": GOOD, "warning": STRONG, "wrong": BAD, "unchecked": DIM}


def finding_sheet(finding: DoctorFinding) -> Sheet:
    """One line, and a second one with what to change."""
    sheet = Sheet()
    said = finding.text
    if finding.grade == "unchecked":
        said = f"could not be checked: {finding.text}"
    sheet.add(
        (f"{finding.grade:{_WIDTH}}", _STYLES[finding.grade]),
        f" {finding.subject:{_SUBJECT_WIDTH}} {finding.check}: {said}",
    )
    if finding.advice:
        sheet.add(f"-> {finding.advice}", indent=_WIDTH + _SUBJECT_WIDTH + 2)
    return sheet


def summary_line(examined: Examined) -> str:
    counts = {grade: num_of(examined.findings, grade) for grade in GRADES}
    parts = [
        f"{counts['wrong']} wrong",
        f"{counts['warning']} {'warning' if counts['warning'] == 1 else 'warnings'}",
        f"{counts['fine']} fine",
        *([f"{counts['unchecked']} could not be checked"] if counts["unchecked"] else []),
    ]
    how = "ended early, " if examined.ended_by is not None else ""
    return f"{how}{', '.join(parts)}, in {duration(examined.seconds)}"


def as_json(examined: Examined, *, exit_code: int) -> dict[str, object]:
    """What machines read."""
    return {
        "findings": [_plain(finding) for finding in examined.findings],
        "counts": {grade: num_of(examined.findings, grade) for grade in GRADES},
        "seconds": round(examined.seconds, 3),
        "is_complete": examined.ended_by is None,
        "exit_code": exit_code,
    }


def _plain(finding: DoctorFinding) -> dict[str, str]:
    names: Sequence[str] = ("subject", "check", "grade", "text", "advice")
    return {name: getattr(finding, name) for name in names}
