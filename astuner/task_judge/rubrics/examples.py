"""Labelled examples, from which rubrics are drafted and by which they are checked.

    {"main_query": "…", "metadata": {"answer": "…", "score": 0.8}}
    {"main_query": "…", "metadata": {"candidates": [{"answer": "…", "rank": 1}, …]}}

The first form is pointwise, the second listwise, with rank 1 for the best. The fields may also
stand beside `main_query`.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from astuner.errors import ConfigError
from astuner.task_reader.json_lines import loads
from astuner.types import finite_number

_LABELS = ("answer", "score")
_NUM_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredExample:
    """An answer with the score that somebody gave it."""

    question: str
    reference: str | None
    answer: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedExample:
    """Answers to one question with their ranks: a lower rank is a better answer."""

    question: str
    reference: str | None
    answers: tuple[str, ...]
    ranks: tuple[float, ...]


LabelledExample = ScoredExample | RankedExample


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleForm:
    """How a line of the file is read."""

    is_ranked: bool
    query_field: str
    reference_field: str
    min_score: float
    max_score: float

    def read(self, line: Any) -> LabelledExample:
        """Raises ValueError, which says what is wrong."""
        if not isinstance(line, dict):
            raise ValueError("not a JSON object")
        metadata = line.get("metadata")
        fields = {**line, **metadata} if isinstance(metadata, dict) else line
        reference = None
        if self.reference_field not in _LABELS:
            reference = fields.get(self.reference_field)
        common = {
            "question": _text(fields, self.query_field),
            "reference": None if reference is None else str(reference),
        }
        read = self._ranked if self.is_ranked else self._scored
        return read(common, fields)

    def _scored(self, common: Mapping[str, Any], fields: Mapping[str, Any]) -> ScoredExample:
        score = finite_number(fields.get("score"))
        if score is None or not self.min_score <= score <= self.max_score:
            raise ValueError(
                f"score is {fields.get('score')!r:.40}, not a number from {self.min_score:g} to "
                f"{self.max_score:g}"
            )
        return ScoredExample(**common, answer=_text(fields, "answer"), score=score)

    def _ranked(self, common: Mapping[str, Any], fields: Mapping[str, Any]) -> RankedExample:
        candidates = fields.get("candidates")
        if not isinstance(candidates, list) or not all(isinstance(c, dict) for c in candidates):
            raise ValueError("candidates is no list of {answer, rank}")
        ranks = tuple(finite_number(candidate.get("rank")) for candidate in candidates)
        answers = tuple(_text(candidate, "answer") for candidate in candidates)
        if len(set(ranks)) < 2 or len(set(answers)) < len(answers) or None in ranks:
            raise ValueError(
                f"candidates with the ranks {ranks!r:.60}; two different answers and ranks are "
                "needed, each answer once"
            )
        return RankedExample(
            **common, answers=answers, ranks=tuple(rank for rank in ranks if rank is not None)
        )


def read_examples(
    path: Path, form: ExampleForm, warn: Callable[[str], None]
) -> list[LabelledExample]:
    """Those of the file that can be read; `warn` is told of the others, with their lines.

    Raises ConfigError where there are none, or where scored ones all have the same score.
    """
    examples: list[LabelledExample] = []
    problems: list[str] = []
    for place, text in _lines(path):
        try:
            examples.append(form.read(loads(text)))
        except (ValueError, RecursionError) as error:
            problems.append(f"{place}: {error}")
    if problems:
        more = f"; and {len(problems) - _NUM_NAMED} more" if len(problems) > _NUM_NAMED else ""
        warn(
            f"{len(problems)} of {len(problems) + len(examples)} labelled examples cannot be "
            f"read and are left out: {'; '.join(problems[:_NUM_NAMED])}{more}"
        )
    mode = "listwise" if form.is_ranked else "pointwise"
    if not examples:
        raise ConfigError(
            f"{path}: no labelled example for grader_mode {mode} among {len(problems)} lines"
            + (f", such as {problems[0]}" if problems else "")
            + "; see docs/judges.md for their form"
        )
    scores = {example.score for example in examples if isinstance(example, ScoredExample)}
    if len(scores) == 1:
        raise ConfigError(
            f"{path}: all {len(examples)} examples have the score {scores.pop():g}, so nothing "
            "tells good answers from bad ones; add some with another score"
        )
    return examples


def examples_digest(examples: list[LabelledExample], form: ExampleForm) -> str:
    """The same for equal examples that are read in the same way, in any order."""
    rows = sorted(json.dumps(astuple(example)) for example in examples)
    content = json.dumps([astuple(form), rows])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise ConfigError(
            f"{path}: the labelled examples cannot be read: {error.strerror}; correct astuner."
            "task_judge.rubrics_auto_grader.jsonl_dataset_file.training.file_path"
        ) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", line


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"{name} is {value!r:.40}, not a text")
    return str(value)
