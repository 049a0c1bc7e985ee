"""What came of making a set, as text for a terminal."""

from collections.abc import Sequence

from astuner.logview.terminal.sheet import BAD, DIM, STRONG, Part, Sheet, columns
from astuner.logview.view.words import count, number, share
from astuner.task_generation.documents.document import UnreadDocument
from astuner.task_generation.outcome import GenerationOutcome

_NUM_DOCUMENTS = 20
_NUM_UNREAD = 10


def outcome_sheet(outcome: GenerationOutcome, unread: Sequence[UnreadDocument]) -> Sheet:
    """Counts, a row for each gate and each document, and what was not read."""
    sheet = Sheet()
    num_tasks = outcome.num_tasks
    test = f", {number(outcome.num_test)} for the test" if outcome.num_test else ""
    sheet.add(
        (count(num_tasks, "task"), STRONG),
        f" in {outcome.folder}: {number(outcome.num_training)} for training, "
        f"{number(outcome.num_validation)} for validation{test}",
    )
    if outcome.ended_by is not None:
        sheet.add(
            (f"fewer than the {number(outcome.num_wanted)} that are wanted: ", BAD),
            outcome.ended_by,
        )
    _add_drafts(sheet, outcome, num_tasks)
    _add_cost(sheet, outcome, num_tasks)
    _add_gates(sheet, outcome)
    _add_documents(sheet, outcome)
    _add_unread(sheet, unread)
    return sheet


def _add_drafts(sheet: Sheet, outcome: GenerationOutcome, num_tasks: int) -> None:
    num_rejected = sum(gate.num_rejected for gate in outcome.by_gate)
    said = f"{count(outcome.num_drafts, 'draft')}: {number(num_rejected)} rejected"
    if (left := outcome.num_drafts - num_tasks - num_rejected) > 0:
        said += f", {number(left)} kept for more tasks"
    if outcome.num_failed:
        said += f"; {number(outcome.num_failed)} more got no answer"
    sheet.add(said, indent=2)


def _add_cost(sheet: Sheet, outcome: GenerationOutcome, num_tasks: int) -> None:
    usage = outcome.usage
    of_each = f", {number(usage.num_tokens / num_tasks)} a task" if num_tasks else ""
    sheet.add(
        f"{count(usage.num_calls, 'request')}, {number(usage.num_input_tokens)} tokens in and "
        f"{number(usage.num_output_tokens)} out{of_each}{cost_of(outcome.cost)}",
        indent=2,
    )


def cost_of(cost: float | None) -> str:
    """Behind a comma; nothing where no price is set."""
    return "" if cost is None else f", at a cost of {number(cost)}"


def _add_gates(sheet: Sheet, outcome: GenerationOutcome) -> None:
    rows: list[tuple[Part, ...]] = [
        tuple((title, DIM) for title in ("gate", "seen", "rejected", "passed", "tokens"))
    ]
    for gate in outcome.by_gate:
        passed = 1 - gate.num_rejected / gate.num_seen if gate.num_seen else None
        rows.append(
            (
                gate.gate,
                number(gate.num_seen),
                number(gate.num_rejected),
                share(passed),
                number(gate.usage.num_tokens),
            )
        )
    _add_table(sheet, rows)


def _add_documents(sheet: Sheet, outcome: GenerationOutcome) -> None:
    rows: list[tuple[Part, ...]] = [
        tuple((title, DIM) for title in ("document", "drafts", "tasks", "kept"))
    ]
    listed = sorted(outcome.by_document.items(), key=lambda item: (-item[1][0], item[0]))
    for name, (num_drafts, num_tasks) in listed[:_NUM_DOCUMENTS]:
        kept = num_tasks / num_drafts if num_drafts else None
        rows.append((name, number(num_drafts), number(num_tasks), share(kept)))
    _add_table(sheet, rows)
    if (left := len(listed) - _NUM_DOCUMENTS) > 0:
        sheet.add((f"and {count(left, 'document')} more, in card.json", DIM), indent=2)


def _add_table(sheet: Sheet, rows: list[tuple[Part, ...]]) -> None:
    if len(rows) == 1:
        return
    sheet.space()
    for row in columns(rows):
        sheet.add(*row, indent=2)


def _add_unread(sheet: Sheet, unread: Sequence[UnreadDocument]) -> None:
    if not unread:
        return
    sheet.space()
    sheet.add((f"{count(len(unread), 'document')} not read", BAD))
    for document in unread[:_NUM_UNREAD]:
        sheet.add(f"{document.name}: {document.reason}", indent=2)
    if (left := len(unread) - _NUM_UNREAD) > 0:
        sheet.add((f"and {number(left)} more, in card.json", DIM), indent=2)
