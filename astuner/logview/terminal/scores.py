"""Scores of evaluations as text for a terminal: one table for several models."""

from collections.abc import Callable, Mapping, Sequence

from astuner.evaluation.score_figures import Estimate, Score
from astuner.evaluation.scores import ModelScores
from astuner.evaluation.tags import tag_name
from astuner.logview.terminal.sheet import BAD, DIM, STRONG, Part, Sheet, columns
from astuner.logview.view.words import count, duration, number, share

_NUM_KINDS = 5
_HEAD = ("", "tasks", "episodes", "failed", "success", "95%", "reward", "95%", "tokens", "seconds")


def score_sheet(all_scores: Sequence[ModelScores]) -> Sheet:
    """A row for each model and, below it, for each value of the tag; then what stands behind it."""
    sheet = Sheet()
    rows: list[tuple[Part, ...]] = [tuple((name, DIM) for name in _HEAD)]
    for scores in all_scores:
        rows.append(_row((scores.model.name, STRONG), scores.total))
        rows += [_row(_value(scores, value), own) for value, own in scores.groups.items()]
    for row in columns(rows):
        sheet.add(*row)
    for scores in all_scores:
        sheet.space()
        _add_details(sheet, scores)
    return sheet


def _value(scores: ModelScores, value: str) -> str:
    return f"  {tag_name(scores.by, value)}"


def _row(name: Part, found: Score) -> tuple[Part, ...]:
    costs = found.costs
    return (
        name,
        number(found.num_tasks),
        number(found.num_episodes),
        (number(found.num_failed), BAD if found.num_failed else ""),
        *_estimate(found.success, share),
        *_estimate(found.reward, number),
        number(round(costs.sampled_tokens)) if costs else "-",
        duration(costs.seconds) if costs else "-",
    )


def _estimate(found: Estimate | None, write: Callable[[float], str]) -> tuple[Part, Part]:
    if found is None:
        return "-", "-"
    if found.interval is None:
        return write(found.mean), ("not known", DIM)
    return write(found.mean), (f"[{write(found.interval.low)}, {write(found.interval.high)}]", DIM)


def _add_details(sheet: Sheet, scores: ModelScores) -> None:
    total, facts = scores.total, scores.model.facts
    sheet.add((scores.model.name, STRONG), (f" · {scores.model.run_dir}", DIM))
    sheet.add(
        f"{facts.split}, {count(facts.num_tasks, 'task')}, {count(facts.num_repeat, 'attempt')} "
        f"each; {number(total.num_unsuccessful)} episodes were judged and were no success",
        indent=2,
    )
    if scores.num_missing:
        sheet.add(
            (
                f"not finished: {count(scores.num_missing, 'episode')} missing, and only what is "
                "there is counted; the same command goes on",
                BAD,
            ),
            indent=2,
        )
    if facts.best_of is not None:
        said = "chosen as the best by these very tasks, so its figures are too good"
        sheet.add((said, BAD), indent=2)
    _add_kinds(sheet, total.failures, what="failed and count as nothing else")
    _add_kinds(sheet, total.format_errors, what="have a reply of bad form")
    _add_passes(sheet, total.pass_at, name="pass@", meaning="any of k attempts succeeds")
    _add_passes(sheet, total.pass_all, name="pass^", meaning="all k attempts succeed")
    if total.costs is not None:
        _add_costs(sheet, total)


def _add_kinds(sheet: Sheet, kinds: Mapping[str, int], *, what: str) -> None:
    if not kinds:
        return
    named = [f"{kind} {number(amount)}" for kind, amount in list(kinds.items())[:_NUM_KINDS]]
    more = ", …" if len(kinds) > _NUM_KINDS else ""
    sheet.add((f"episodes that {what}: ", BAD), f"{', '.join(named)}{more}", indent=2)


def _add_passes(sheet: Sheet, found: Mapping[int, Estimate], *, name: str, meaning: str) -> None:
    if len(found) < 2:  # with one attempt it is the success rate
        return
    parts = [f"{name}{k} {' '.join(_plain(estimate))}" for k, estimate in found.items()]
    sheet.add(f"{', '.join(parts)}", (f"  {meaning}", DIM), indent=2)


def _plain(found: Estimate) -> tuple[str, str]:
    mean, interval = _estimate(found, share)
    return str(mean), interval if isinstance(interval, str) else interval[0]


def _add_costs(sheet: Sheet, total: Score) -> None:
    assert total.costs is not None
    costs = total.costs
    sheet.add(
        f"an episode: {number(round(costs.sampled_tokens))} tokens sampled behind "
        f"{number(round(costs.prompt_tokens))} of prompts in {number(costs.calls)} calls, "
        f"{duration(costs.seconds)}; in all {number(costs.total_tokens)} tokens",
        indent=2,
    )
