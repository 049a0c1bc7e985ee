"""What the card of an export says of evaluations."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from astuner.evaluation.facts import EvaluationFacts
from astuner.exporting.card import CardFacts, card_text
from astuner.exporting.checkpoint_named import NamedCheckpoint
from astuner.exporting.format import ExportAgreement
from astuner.run_dir import RunDir
from tests.evaluations import write_evaluation

AGREEMENT = ExportAgreement(
    runtime="transformers",
    num_probes=1,
    num_tokens=8,
    num_equal_tokens=8,
    num_ties=0,
    mean_gap=0.0,
    max_gap=0.0,
    first_difference=None,
)


def card_of(checkpoint: Path) -> str:
    named = NamedCheckpoint(
        folder=checkpoint,
        run_dir=RunDir(root=checkpoint.parent.parent),
        step=2,
        is_adapter=False,
        settings={},
        choice=None,
    )
    return card_text(
        CardFacts(
            checkpoint=named,
            to="hf",
            base=None,
            agreement=AGREEMENT,
            change=None,
            recorded=None,
            usage="",
            warnings=[],
        )
    )


def test_each_evaluation_has_its_success_with_interval_and_tasks(tmp_path: Path) -> None:
    checkpoint = tmp_path / "math" / "2026-01-31_09-30-00" / "checkpoints" / "step_2"
    model = str(checkpoint)
    tasks = {"a1": [1.0, 1.0], "a2": [1.0, 0.0], "a3": [0.0, None], "a4": [1.0, 1.0]}
    write_evaluation(tmp_path, tasks, model=model)
    write_evaluation(tmp_path, {"a1": [1.0]}, start="2026-01-31_10-00-00")
    begun = write_evaluation(tmp_path, tasks, start="2026-01-31_11-00-00", model=model)
    records = begun / "episodes" / "validation_000000.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:3]))
    nothing = {"a1": [None], "a2": [None]}
    write_evaluation(tmp_path, nothing, start="2026-01-31_12-00-00", model=model)
    torn = write_evaluation(tmp_path, tasks, start="2026-01-31_13-00-00", model=model)
    (torn / "episodes" / "validation_000000.jsonl").write_text('{"task": 1}\n')
    card = card_of(checkpoint)
    rows = [line for line in card.splitlines() if line.startswith("| `test`")]
    whole, half, failed, unreadable = rows
    assert whole.startswith("| `test` | 4 | 2 | 0.625 [0.")
    assert "] of 4 tasks, 1 failed | `eval/2026-01-31_09-30-00` |" in whole
    assert "| not finished, 5 episodes are missing |" in half
    assert "| not known: no episode was judged, 2 failed |" in failed
    assert "| its records cannot be read |" in unreadable
    assert "too good" not in card


def test_a_success_on_the_tasks_that_chose_the_checkpoint_is_called_too_good(
    tmp_path: Path,
) -> None:
    checkpoint = tmp_path / "math" / "2026-01-31_09-30-00" / "checkpoints" / "step_2"
    tasks = {"a1": [1.0], "a2": [0.0]}
    root = write_evaluation(tmp_path, tasks, split="validation", model=str(checkpoint))
    replace(EvaluationFacts.read(root), best_of=str(checkpoint.parent.parent)).write(root)
    assert "On *validation* it is too good" in card_of(checkpoint)
