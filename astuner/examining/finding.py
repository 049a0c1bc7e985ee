"""What an examination says: one line for each thing that was looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Subject = Literal["machine", "data", "judge", "model", "workflow", "forecast"]
SUBJECTS: tuple[Subject, ...] = ("machine", "data", "judge", "model", "workflow", "forecast")

Grade = Literal["fine", "warning", "wrong", "unchecked"]
GRADES: tuple[Grade, ...] = ("fine", "warning", "wrong", "unchecked")


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorFinding:
    """One line."""

    subject: Subject
    check: str
    """What was looked at, in one to three words."""
    grade: Grade
    """unchecked: nothing is known, and `text` says why."""
    text: str
    """What was found."""
    advice: str = ""
    """The setting to change and what to set; empty where nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Remarks:
    """Makes the findings of one subject."""

    subject: Subject

    def fine(self, check: str, text: str) -> DoctorFinding:
        return DoctorFinding(subject=self.subject, check=check, grade="fine", text=text)

    def warning(self, check: str, text: str, advice: str = "") -> DoctorFinding:
        return DoctorFinding(
            subject=self.subject, check=check, grade="warning", text=text, advice=advice
        )

    def wrong(self, check: str, text: str, advice: str = "") -> DoctorFinding:
        return DoctorFinding(
            subject=self.subject, check=check, grade="wrong", text=text, advice=advice
        )

    def unchecked(self, check: str, reason: str, advice: str = "") -> DoctorFinding:
        return DoctorFinding(
            subject=self.subject, check=check, grade="unchecked", text=reason, advice=advice
        )


def num_of(findings: Sequence[DoctorFinding], grade: Grade) -> int:
    return sum(finding.grade == grade for finding in findings)
