"""Scores as tables of a notebook."""

from collections.abc import Mapping

from astuner.evaluation.html_parts import DASH, html_interval, html_table
from astuner.evaluation.score_figures import Estimate, Score


def score_table(named: Mapping[str, Score]) -> str:
    """A row for each."""
    head = ("", "tasks", "episodes", "failed", "success", "reward", "tokens")
    return html_table(head, [_score_row(name, found) for name, found in named.items()])


def passes_table(found: Score) -> str:
    """Of more than one attempt; nothing where there is one only."""
    passes = [
        (f"{name}{k}", _estimate(estimate))
        for name, estimates in (("pass@", found.pass_at), ("pass^", found.pass_all))
        for k, estimate in estimates.items()
        if k > 1
    ]
    return html_table(("", "probability"), passes) if passes else ""


def _score_row(name: str, found: Score) -> tuple[str, ...]:
    tokens = f"{found.costs.sampled_tokens:.0f}" if found.costs else DASH
    counts = (str(found.num_tasks), str(found.num_episodes), str(found.num_failed))
    return (name, *counts, _estimate(found.success), _estimate(found.reward), tokens)


def _estimate(found: Estimate | None) -> str:
    if found is None:
        return DASH
    return f"{found.mean:.3f} {html_interval(found.interval)}"
