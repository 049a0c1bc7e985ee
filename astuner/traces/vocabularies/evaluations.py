"""What was thought of an answer, as an event of OpenTelemetry's conventions.

Source: open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-events.md.
"""

from typing import Any

from astuner.traces.span import TracedEvent
from astuner.traces.trace import TraceFeedback
from astuner.traces.vocabularies.signs import first_text

EVALUATION = "gen_ai.evaluation.result"
CORRECTION = "astuner.evaluation.correction"
"""The answer that should have been given, for which the conventions have no name."""
RESPONSE_ID = "gen_ai.response.id"


def read_evaluation(event: TracedEvent, span_id: str | None) -> TraceFeedback:
    """Of an event with that name; `span_id` is of the span that it stands in or names."""
    told = event.attributes
    return TraceFeedback(
        name=first_text(told, ("gen_ai.evaluation.name",)) or "evaluation",
        score=_number(told.get("gen_ai.evaluation.score.value")),
        label=first_text(told, ("gen_ai.evaluation.score.label",)),
        comment=first_text(told, ("gen_ai.evaluation.explanation",)),
        by=first_text(told, ("user.id", "gen_ai.evaluation.evaluator.name")),
        span_id=span_id or None,
        correction=first_text(told, (CORRECTION,)),
        told=event.time,
    )


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
