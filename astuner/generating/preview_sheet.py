"""Previewed drafts as text for a terminal: each with its evidence marked in its chunk."""

from astuner.generating.report import cost_of
from astuner.logview.terminal.sheet import BAD, DIM, GOOD, STRONG, Part, Sheet
from astuner.logview.view.words import count, number
from astuner.task_generation.documents.document import DocumentChunk
from astuner.task_generation.gates.evidence import find_span
from astuner.task_generation.preview import Preview, PreviewedDraft

_AROUND = 200
"""Characters of the chunk on each side of the evidence."""


def preview_sheet(preview: Preview) -> Sheet:
    """All drafts with their verdicts, and at the end what the whole would cost."""
    sheet = Sheet()
    for number_, draft in enumerate(preview.drafts, start=1):
        sheet.space()
        _add_draft(sheet, draft, of=f"draft {number_} of {len(preview.drafts)}")
    sheet.space()
    _add_costs(sheet, preview)
    return sheet


def _add_draft(sheet: Sheet, previewed: PreviewedDraft, *, of: str) -> None:
    turn = previewed.turn
    place = "from examples"
    if turn.chunk is not None:
        place = f"{turn.chunk.document}, chunk {turn.chunk.number}"
    sheet.add(
        (of, STRONG), (f"  {place}  {turn.style.name}, {turn.difficulty}  for {turn.side}", DIM)
    )
    if (draft := previewed.draft) is not None:
        sheet.add(("question  ", DIM), draft.question, indent=2)
        sheet.add(("answer    ", DIM), draft.answer, indent=2)
        if turn.chunk is not None:
            sheet.add(("evidence  ", DIM), *_marked(draft.evidence, turn.chunk), indent=2)
    sheet.add(("verdict   ", DIM), *_verdict(previewed), indent=2)


def _verdict(previewed: PreviewedDraft) -> tuple[Part, ...]:
    if previewed.failure is not None:
        return (("no answer", BAD), f"  {previewed.failure}")
    if previewed.rejection is not None:
        rejection = previewed.rejection
        return ((f"rejected by {rejection.gate}", BAD), f"  {rejection.reason}")
    return (("a task", GOOD),)


def _marked(evidence: str, chunk: DocumentChunk) -> tuple[Part, ...]:
    """The evidence where it stands; alone where it does not stand there."""
    span = find_span(evidence, chunk.text)
    if span is None:
        return (evidence,)
    begin, end = span
    before, after = chunk.text[max(0, begin - _AROUND) : begin], chunk.text[end : end + _AROUND]
    return (
        (f"{'… ' if begin > _AROUND else ''}{_one_line(before)}", DIM),
        (f"[{_one_line(chunk.text[begin:end])}]", STRONG),
        (f"{_one_line(after)}{' …' if end + _AROUND < len(chunk.text) else ''}", DIM),
    )


def _one_line(text: str) -> str:
    spaced = " ".join(text.split())
    return f"{' ' * text[:1].isspace()}{spaced}{' ' * text[-1:].isspace()}"


def _add_costs(sheet: Sheet, preview: Preview) -> None:
    usage, num_drafts = preview.usage, len(preview.drafts)
    sheet.add(
        (f"{number(preview.num_accepted)} of {count(num_drafts, 'draft')} became tasks", STRONG),
        f", for {count(usage.num_calls, 'request')} with {number(usage.num_input_tokens)} tokens "
        f"in and {number(usage.num_output_tokens)} out{cost_of(preview.cost)}",
    )
    if (scale := preview.scale) is not None:
        cost = None if preview.cost is None else preview.cost * scale
        sheet.add(
            f"{count(preview.num_wanted, 'task')} would take about "
            f"{number(num_drafts * scale, 2)} drafts and {number(usage.num_tokens * scale, 2)} "
            f"tokens{cost_of(cost)}, if the others are like these"
        )
    elif usage.num_cache_hits:
        sheet.add(
            f"{count(usage.num_cache_hits, 'answer')} of an earlier start cost nothing now, so "
            "these drafts do not tell what the whole would cost"
        )
    if not preview.is_unanswered:
        sheet.add(f"their answers are kept in {preview.folder}, and are not paid again")
