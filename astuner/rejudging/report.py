"""What came of judging again, as text for a terminal."""

from collections.abc import Sequence
from pathlib import Path

from astuner.logview.terminal.sheet import BAD, DIM, STRONG, Part, Sheet, columns
from astuner.logview.view.words import count, duration, number, share
from astuner.logview.web.addresses import episode_at
from astuner.rejudging.agreement import Rewards, Successes
from astuner.rejudging.findings import (
    Disagreement,
    JudgeFindings,
    LabelFindings,
    Pair,
    Reason,
    Rejudgement,
)
from astuner.rejudging.opinion import Opinion
from astuner.rejudging.probing import ProbeResult

_NUM_REASONS = 5
_NUM_NAMED = 5
_NUM_DIFFERING, _NUM_DIFFERING_OF_MANY = 10, 5
"""Episodes that are shown of a pair, and of each where there are several pairs."""
_NUM_SIGNS = 200
_VIEWER = "http://127.0.0.1:27886"
"""Where the viewer is found, unless another program has the port."""


def report(found: Rejudgement, *, folder: Path) -> Sheet:
    """The whole report; `folder` is that of the runs, for the viewer."""
    sheet = Sheet()
    _add_head(sheet, found)
    for judge in found.judges:
        sheet.space()
        _add_judge(sheet, judge)
    num_shown = _NUM_DIFFERING if len(found.pairs) == 1 else _NUM_DIFFERING_OF_MANY
    for pair in found.pairs:
        sheet.space()
        _add_pair(sheet, pair, num_shown=num_shown)
    if any(pair.disagreements for pair in found.pairs):
        sheet.space()
        sheet.add(
            (
                f"the links open while `astuner logview {folder}` serves; `astuner show RUN "
                "EPISODE` shows an episode here",
                DIM,
            )
        )
    return sheet


def _add_head(sheet: Sheet, found: Rejudgement) -> None:
    sheet.add(
        (count(found.num_episodes, "episode"), STRONG), f" of {count(found.num_steps, 'step')}"
    )
    if found.num_episodes < found.num_found:
        sheet.add(
            f"a part of the {number(found.num_found)} that there are, in groups spread over the "
            "steps; the same each time",
            indent=2,
        )
    if found.labels is not None:
        _add_labels(sheet, found.labels)
    _add_reasons(sheet, found.not_judged, what="not judged")


def _add_labels(sheet: Sheet, labels: LabelFindings) -> None:
    open_ = f", and {count(labels.num_open, 'row')} without one" if labels.num_open else ""
    sheet.add(f"{count(labels.num_labels, 'label')}{open_}", indent=2)
    if unknown := labels.unknown_ids:
        more = ", …" if len(unknown) > _NUM_NAMED else ""
        sheet.add(
            (
                f"{count(len(unknown), 'labelled episode')} not among those of the run: "
                f"{', '.join(unknown[:_NUM_NAMED])}{more}",
                BAD,
            ),
            indent=2,
        )


def _add_reasons(sheet: Sheet, reasons: Sequence[Reason], *, what: str) -> None:
    for reason in reasons[:_NUM_REASONS]:
        sheet.add(
            (f"{number(reason.num_episodes)} {what}: ", BAD),
            f"{_start(reason.text)} ",
            (f"(such as {reason.example.episode_id})", DIM),
            indent=2,
        )
    rest = reasons[_NUM_REASONS:]
    if rest:
        total = sum(reason.num_episodes for reason in rest)
        sheet.add(f"{number(total)} {what} for {count(len(rest), 'other reason')}", indent=2)


def _add_judge(sheet: Sheet, judge: JudgeFindings) -> None:
    num_failed = sum(reason.num_episodes for reason in judge.failures)
    sheet.add(("── ", DIM), (judge.name, STRONG))
    sheet.add(
        f"{number(judge.num_judged)} judged, {number(num_failed)} failed; mean reward "
        f"{number(judge.mean_reward)}, {_successes(judge.num_successes)}",
        indent=2,
    )
    if judge.num_open:
        sheet.add((f"{number(judge.num_open)} not asked about: it was ended before", BAD), indent=2)
    _add_reasons(sheet, judge.failures, what="failed")
    sheet.add(f"cost: {_cost(judge)}", indent=2)
    if (again := judge.repeated) is not None:
        sheet.add(
            f"asked again about {count(again.num_episodes, 'episode')}: the same is_success in "
            f"{number(again.num_same_success)}; rewards of one episode lie "
            f"{number(again.mean_spread)} apart in the mean, {number(again.max_spread)} at most",
            indent=2,
        )
    if judge.probes:
        _add_probes(sheet, judge)


def _successes(amount: int) -> str:
    return "1 success" if amount == 1 else f"{number(amount)} successes"


def _cost(judge: JudgeFindings) -> str:
    usage = judge.usage
    seconds = duration(judge.seconds)
    if not usage.num_calls and not usage.num_cache_hits:
        return f"{seconds}, and no model was asked from this process"
    tokens = f"{number(usage.num_input_tokens)} tokens in and {number(usage.num_output_tokens)} out"
    hits = (
        f", {count(usage.num_cache_hits, 'answer')} from the cache" if usage.num_cache_hits else ""
    )
    return f"{count(usage.num_calls, 'call')} with {tokens}{hits}, {seconds}"


def _add_probes(sheet: Sheet, judge: JudgeFindings) -> None:
    sheet.add(f"hostile answers at {count(judge.num_probed_tasks, 'task')}, mean reward:", indent=2)
    for result, line in zip(judge.probes, columns([_probe(r) for r in judge.probes]), strict=True):
        sheet.add(*line, _warning(result), indent=4)
    if any(result.is_above_middle for result in judge.probes):
        low, high = number(judge.rewards.low), number(judge.rewards.high)
        sheet.add(
            (
                f"warning: it can be pleased without an answer; the middle of its rewards is "
                f"{number(judge.rewards.middle)}, since those of recorded episodes, and 0, reach "
                f"from {low} to {high}",
                BAD,
            ),
            indent=2,
        )


def _probe(result: ProbeResult) -> tuple[Part, ...]:
    failed = f"{result.num_failed} failed" if result.num_failed else ""
    successes = f"a success in {result.num_successes} of {result.num_judged}"
    return (result.probe, number(result.mean_reward), successes, failed)


def _warning(result: ProbeResult) -> Part:
    return ("  above the middle", BAD) if result.is_above_middle else ""


def _add_pair(sheet: Sheet, pair: Pair, *, num_shown: int) -> None:
    agreement = pair.agreement
    sheet.add(
        ("── ", DIM),
        (f"{pair.second} against {pair.first}", STRONG),
        (f" · {count(agreement.num_episodes, 'episode')} that both judged", DIM),
    )
    if agreement.successes is not None:
        _add_agreement(sheet, pair, agreement.successes)
    if agreement.rewards is not None:
        _add_rewards(sheet, pair, agreement.rewards)
    shown = pair.disagreements[:num_shown]
    if shown:
        of_all = f", {len(shown)} of {number(len(pair.disagreements))}"
        sheet.add(
            f"where they differ most{of_all if len(shown) < len(pair.disagreements) else ''}:",
            indent=2,
        )
    for one in shown:
        _add_disagreement(sheet, pair, one)


def _add_agreement(sheet: Sheet, pair: Pair, found: Successes) -> None:
    alike, table = found.agreement, found.confusion
    kappa = (
        "kappa is not defined, since both say the same of all"
        if found.kappa is None
        else f"kappa {found.kappa:.2f}"
    )
    num_alike = table.num_both + table.num_neither
    sheet.add(
        f"is_success: alike in {number(num_alike)} of {number(alike.num_episodes)}, "
        f"{share(alike.rate)} ({share(alike.low)} to {share(alike.high)}); {kappa}",
        indent=2,
    )
    rows: list[tuple[Part, ...]] = [
        ("", f"{pair.second}: success", "no success"),
        (f"{pair.first}: success", number(table.num_both), number(table.num_first)),
        (f"{pair.first}: no success", number(table.num_second), number(table.num_neither)),
    ]
    for line in columns(rows):
        sheet.add(*line, indent=4)


def _add_rewards(sheet: Sheet, pair: Pair, found: Rewards) -> None:
    sheet.add(
        f"rewards: mean {number(found.mean_first)} by {pair.first} and "
        f"{number(found.mean_second)} by {pair.second}",
        indent=2,
    )
    sheet.add(_ranks(pair, found), indent=2)
    order = found.in_groups
    if not order.num_pairs:
        sheet.add("within groups: neither tells any two episodes of a group apart", indent=2)
        return
    sheet.add(
        f"within groups, from which is learned: of {count(order.num_pairs, 'pair')} that one or "
        f"both tell apart, {number(order.num_alike)} ({share(order.share)}) are ordered alike, "
        f"{number(order.num_opposite)} the other way round, {number(order.num_one_sided)} by one "
        "only",
        indent=2,
    )


def _ranks(pair: Pair, found: Rewards) -> str:
    if found.spearman is not None and found.kendall_tau_b is not None:
        return f"order: Spearman {found.spearman:.2f}, Kendall's tau-b {found.kendall_tau_b:.2f}"
    constant = [
        f"all rewards of {name} are {number(value)}"
        for name, value in (
            (pair.first, found.constant_first),
            (pair.second, found.constant_second),
        )
        if value is not None
    ]
    return f"order: rank correlations are not defined, since {' and '.join(constant)}"


def _add_disagreement(sheet: Sheet, pair: Pair, one: Disagreement) -> None:
    sheet.add(
        (one.name.episode_id, STRONG),
        f"  step {one.step}  {pair.first}: {_said(one.first)}  {pair.second}: {_said(one.second)}",
        indent=4,
    )
    sheet.add(("question: ", DIM), one.question, indent=6)
    if one.answer:
        sheet.add(("answer: ", DIM), _start(one.answer), indent=6)
    if note := one.second.note:
        sheet.add((f"{pair.second} says: ", DIM), _start(note), indent=6)
    if note := one.first.note:
        sheet.add((f"{pair.first} says: ", DIM), _start(note), indent=6)
    sheet.add((f"{_VIEWER}{episode_at(one.name.run, one.name.episode_id)}", DIM), indent=6)


def _said(opinion: Opinion) -> str:
    success = {True: "success", False: "no success", None: None}[opinion.is_success]
    known = [number(opinion.reward) if opinion.reward is not None else None, success]
    return ", ".join(filter(None, known))


def _start(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _NUM_SIGNS else f"{line[:_NUM_SIGNS]}…"
