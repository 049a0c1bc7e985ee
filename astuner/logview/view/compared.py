"""What a comparison of two evaluations found, as the texts of a table."""

from collections.abc import Callable
from dataclasses import dataclass

from astuner.evaluation.comparison import ModelComparison
from astuner.evaluation.differences import (
    ComparedGroup,
    Finding,
    PairedDifference,
    RelativeChange,
)
from astuner.evaluation.tags import tag_name
from astuner.logview.view.words import duration, number, share, signed

_NOTHING = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceRow:
    """One measure over some tasks; a figure that is not known is a dash."""

    name: str
    num_tasks: str
    mean_a: str
    mean_b: str
    difference: str
    interval: str
    """Of 95%."""
    p_value: str
    could_show: str
    """The smallest true difference that so many tasks show with 80% power at 5%."""
    finding: Finding | None
    """None: of costs, of which none is better by itself."""


def difference_rows(found: ModelComparison) -> list[DifferenceRow]:
    """Of all tasks, then of each value of the tag."""
    rows = _group_rows("", found.total)
    rows.append(_relative_row("seconds", found.seconds, duration))
    for value, group in found.groups.items():
        rows += _group_rows(f"{tag_name(found.by, value)} ", group)
    return rows


def how_tested(found: ModelComparison) -> str | None:
    """By which test, and what it could have shown; None where nothing could be tested."""
    success = found.total.success
    if success is None or success.test is None:
        return None
    return (
        f"paired by task; p: {success.test.method}; could show: the smallest true difference "
        "that so many tasks show with 80% power at 5%"
    )


def _group_rows(prefix: str, group: ComparedGroup) -> list[DifferenceRow]:
    return [
        _difference_row(f"{prefix}success", group.success, share),
        _difference_row(f"{prefix}reward", group.reward, number),
        _relative_row(f"{prefix}tokens", group.sampled_tokens, lambda mean: number(round(mean))),
    ]


def _difference_row(
    name: str, found: PairedDifference | None, write: Callable[[float], str]
) -> DifferenceRow:
    if found is None:
        return _unknown_row(name)
    interval, p_value, could_show = "not known", _NOTHING, _NOTHING
    if found.interval is not None and found.test is not None and found.detectable is not None:
        interval = f"[{signed(found.interval.low, 3)}, {signed(found.interval.high, 3)}]"
        p_value, could_show = _p(found.test.p_value), f"{found.detectable:.3f}"
    return DifferenceRow(
        name=name,
        num_tasks=number(found.num_tasks),
        mean_a=write(found.mean_a),
        mean_b=write(found.mean_b),
        difference=signed(found.mean, 3),
        interval=interval,
        p_value=p_value,
        could_show=could_show,
        finding=found.finding,
    )


def _relative_row(
    name: str, found: RelativeChange | None, write: Callable[[float], str]
) -> DifferenceRow:
    if found is None:
        return _unknown_row(name)
    known = found.interval
    interval = "not known" if known is None else f"[{_percent(known.low)}, {_percent(known.high)}]"
    return DifferenceRow(
        name=name,
        num_tasks=number(found.num_tasks),
        mean_a=write(found.mean_a),
        mean_b=write(found.mean_b),
        difference=_percent(found.share),
        interval=interval,
        p_value=_NOTHING,
        could_show=_NOTHING,
        finding=None,
    )


def _unknown_row(name: str) -> DifferenceRow:
    return DifferenceRow(
        name=name,
        num_tasks="0",
        mean_a=_NOTHING,
        mean_b=_NOTHING,
        difference=_NOTHING,
        interval=_NOTHING,
        p_value=_NOTHING,
        could_show=_NOTHING,
        finding=None,
    )


def _percent(value: float) -> str:
    return f"{value:+.1%}".replace("-", "\u2212")


def _p(p_value: float) -> str:
    return "< 0.0001" if p_value < 1e-4 else f"{p_value:.2g}"
