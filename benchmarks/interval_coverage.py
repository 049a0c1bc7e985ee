"""How often the intervals of evaluations hold the truth, and how often their test errs.

    python -m benchmarks.interval_coverage              # all: a quarter of an hour
    python -m benchmarks.interval_coverage --part tests

Draws evaluations whose true success is known, over numbers of tasks and attempts, base rates and
how alike the attempts at one task are, and asks the functions that `astuner evaluate` and `astuner
compare` use. Beside them stand what people use else: Student's interval over tasks, the percentile
bootstrap over tasks, and Wilson's interval of all attempts as if each were a task.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from astuner.evaluation.intervals import (
    Interval,
    detectable_difference,
    difference_interval,
    mean_interval,
    share_interval,
    t_quantile,
)
from astuner.evaluation.sign_flips import flip_test

RATES = (0.05, 0.2, 0.5, 0.8, 0.95)
NUMBERS_OF_TASKS = (30, 100, 300)
NUMBERS_OF_ATTEMPTS = (1, 4)
ALIKE = (0.1, 0.5, 0.9)
"""Correlation of the attempts at one task."""
GAINS = (0.0, 0.1)
GOOD = (0.93, 0.97)
_NUM_RESAMPLES = 400
_BOOTSTRAPPED = 8
"""One in so many draws, since it costs more than all others."""

Method = Callable[[Sequence[float], int], Interval | None]


@dataclass(frozen=True, kw_only=True)
class Setting:
    num_tasks: int
    num_attempts: int
    rate: float
    alike: float

    def rates_of_tasks(self, rng: np.random.Generator) -> np.ndarray:
        """Beta, so that attempts at one task have the correlation `alike`."""
        size = 1 / self.alike - 1
        return rng.beta(self.rate * size, (1 - self.rate) * size, self.num_tasks)

    def shares(self, rng: np.random.Generator, rates: np.ndarray) -> list[float]:
        return (rng.binomial(self.num_attempts, rates) / self.num_attempts).tolist()


def settings() -> Iterator[Setting]:
    for num_tasks in NUMBERS_OF_TASKS:
        for num_attempts in NUMBERS_OF_ATTEMPTS:
            for rate in RATES:
                for alike in ALIKE if num_attempts > 1 else (0.5,):
                    yield Setting(
                        num_tasks=num_tasks, num_attempts=num_attempts, rate=rate, alike=alike
                    )


def student(values: Sequence[float], _: int) -> Interval:
    own = np.asarray(values)
    reach = t_quantile(len(own) - 1) * own.std(ddof=1) / math.sqrt(len(own))
    return Interval(low=own.mean() - reach, high=own.mean() + reach)


def pooled_wilson(values: Sequence[float], num_attempts: int) -> Interval:
    """Of all attempts, as if none had a task in common."""
    mean, size = float(np.mean(values)), len(values) * num_attempts
    pull = 1.96**2 / size
    centre = (mean + pull / 2) / (1 + pull)
    reach = math.sqrt(pull * mean * (1 - mean) + pull**2 / 4) / (1 + pull)
    return Interval(low=centre - reach, high=centre + reach)


def bootstrap(rng: np.random.Generator) -> Method:
    def over_tasks(values: Sequence[float], _: int) -> Interval:
        own = np.asarray(values)
        means = own[rng.integers(len(own), size=(_NUM_RESAMPLES, len(own)))].mean(1)
        low, high = np.quantile(means, (0.025, 0.975))
        return Interval(low=low, high=high)

    return over_tasks


class Coverage:
    """Counts, for each method, how often it held the truth."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._held: dict[str, list[bool]] = {name: [] for name in methods}

    def note(self, values: Sequence[float], truth: float, *, num_attempts: int, draw: int) -> None:
        for name, method in self._methods.items():
            if name == "bootstrap" and draw % _BOOTSTRAPPED:
                continue
            found = method(values, num_attempts)
            held = found is not None and found.low - 1e-12 <= truth <= found.high + 1e-12
            self._held[name].append(held)

    def shares(self) -> dict[str, float]:
        return {name: sum(held) / len(held) for name, held in self._held.items()}


def print_by_size(title: str, found: Mapping[tuple[Setting, str], Mapping[str, float]]) -> None:
    """Of each number of tasks and attempts the least, middle and largest coverage."""
    names = list(next(iter(found.values())))
    print(f"\n{title}: least, middle and largest coverage over base rates and correlations\n")
    print(f"| tasks | attempts | {' | '.join(names)} |")
    print(f"| ---: | ---: | {' | '.join('---' for _ in names)} |")
    for num_tasks in NUMBERS_OF_TASKS:
        for num_attempts in NUMBERS_OF_ATTEMPTS:
            rows = [
                shares
                for (setting, _), shares in found.items()
                if (setting.num_tasks, setting.num_attempts) == (num_tasks, num_attempts)
            ]
            cells = [_range([row[name] for row in rows]) for name in names]
            print(f"| {num_tasks} | {num_attempts} | {' | '.join(cells)} |")
    _print_outside(found)


def _range(shares: Sequence[float]) -> str:
    return f"{min(shares):.3f} {np.median(shares):.3f} {max(shares):.3f}"


def _print_outside(found: Mapping[tuple[Setting, str], Mapping[str, float]]) -> None:
    outside = {key: shares["ours"] for key, shares in found.items()}
    low = {key: share for key, share in outside.items() if share < GOOD[0]}
    num_high = sum(share > GOOD[1] for share in outside.values())
    print(
        f"\nours: {len(outside) - len(low) - num_high} of {len(outside)} within "
        f"{GOOD[0]:.0%} to {GOOD[1]:.0%}, {num_high} above, {len(low)} below:"
    )
    for (setting, what), share in low.items():
        print(
            f"  {share:.3f}  {setting.num_tasks} tasks, {setting.num_attempts} attempts, rate "
            f"{setting.rate}, correlation {setting.alike} {what}"
        )


def success(num_draws: int, rng: np.random.Generator) -> None:
    found = {}
    for setting in settings():
        coverage = Coverage(
            {
                "ours": lambda v, k: share_interval(v, num_attempts=len(v) * k),
                "student": student,
                "bootstrap": bootstrap(rng),
                "pooled Wilson": pooled_wilson,
            }
        )
        for draw in range(num_draws):
            values = setting.shares(rng, setting.rates_of_tasks(rng))
            coverage.note(values, setting.rate, num_attempts=setting.num_attempts, draw=draw)
        found[setting, ""] = coverage.shares()
    print_by_size("success", found)


REWARDS: Mapping[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "mostly 0, else even": lambda rng, size: (rng.random(size) < 0.2) * rng.random(size),
    "bell": lambda rng, size: rng.normal(1.0, 0.5, size),
    "shaped": lambda rng, size: rng.beta(0.7, 2.0, size),
    "0, 0.5 or 1": lambda rng, size: rng.choice([0.0, 0.5, 1.0], size, p=[0.6, 0.3, 0.1]),
    "minus 1 or up to 1": lambda rng, size: np.where(
        rng.random(size) < 0.1, -1.0, rng.random(size)
    ),
}
_MEANS = {
    "mostly 0, else even": 0.1,
    "bell": 1.0,
    "shaped": 0.7 / 2.7,
    "0, 0.5 or 1": 0.25,
    "minus 1 or up to 1": 0.35,
}


def rewards(num_draws: int, rng: np.random.Generator) -> None:
    """Half of the attempts at a task repeat the first one, which makes them alike."""
    found = {}
    for num_tasks in NUMBERS_OF_TASKS:
        for num_attempts in NUMBERS_OF_ATTEMPTS:
            for name, draw_rewards in REWARDS.items():
                setting = Setting(
                    num_tasks=num_tasks, num_attempts=num_attempts, rate=_MEANS[name], alike=0.5
                )
                found[setting, name] = _reward_coverage(setting, draw_rewards, num_draws, rng)
    print_by_size("mean reward", found)


def _reward_coverage(
    setting: Setting,
    draw_rewards: Callable[[np.random.Generator, tuple[int, int]], np.ndarray],
    num_draws: int,
    rng: np.random.Generator,
) -> dict[str, float]:
    bounds = [0.0, 0.0]
    coverage = Coverage(
        {
            "ours": lambda v, _: mean_interval(v, bounds=(bounds[0], bounds[1]), num_attempts=None),
            "student": student,
            "bootstrap": bootstrap(rng),
        }
    )
    for draw in range(num_draws):
        values = draw_rewards(rng, (setting.num_tasks, setting.num_attempts))
        repeats = rng.random(values.shape) < 0.5
        values = np.where(repeats, values[:, :1], values)
        bounds[:] = [float(values.min()), float(values.max())]
        means = values.mean(1).tolist()
        coverage.note(means, setting.rate, num_attempts=setting.num_attempts, draw=draw)
    return coverage.shares()


def paired_rates(
    setting: Setting, gain: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Of half of the tasks the rates change; the mean gain is `gain` of what is left to gain."""
    own = setting.rates_of_tasks(rng)
    other = np.where(rng.random(own.shape) < 0.5, own, setting.rates_of_tasks(rng))
    return own, other + (1 - other) * gain


def differences(num_draws: int, rng: np.random.Generator) -> None:
    found = {}
    for setting in settings():
        for gain in GAINS:
            coverage = Coverage(
                {
                    "ours": lambda v, _: difference_interval(v),
                    "student": student,
                    "bootstrap": bootstrap(rng),
                }
            )
            truth = gain * (1 - setting.rate)
            for draw in range(num_draws):
                changes = _changes(setting, gain, rng)
                coverage.note(changes, truth, num_attempts=setting.num_attempts, draw=draw)
            found[setting, f"gain {truth:.3f}"] = coverage.shares()
    print_by_size("paired difference", found)


def _changes(setting: Setting, gain: float, rng: np.random.Generator) -> list[float]:
    own, other = paired_rates(setting, gain, rng)
    a, b = setting.shares(rng, own), setting.shares(rng, other)
    return [after - before for before, after in zip(a, b, strict=True)]


def tests(num_draws: int, rng: np.random.Generator) -> None:
    print("\nthe test at 5%, and the difference that it is to show in 80% of cases\n")
    print("| tasks | attempts | rate | false alarms | could show | shown by the test | by both |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for num_tasks in NUMBERS_OF_TASKS:
        for num_attempts in NUMBERS_OF_ATTEMPTS:
            for rate in (0.2, 0.5, 0.8):
                setting = Setting(
                    num_tasks=num_tasks, num_attempts=num_attempts, rate=rate, alike=0.5
                )
                _print_test(setting, num_draws, rng)


def _print_test(setting: Setting, num_draws: int, rng: np.random.Generator) -> None:
    num_draws //= 2
    alarms = np.mean([_is_shown(_changes(setting, 0.0, rng)) for _ in range(num_draws)])
    gain = 0.0
    for _ in range(4):  # what can be shown hangs on the difference itself
        gain = min(0.95, _could_show(setting, gain, rng) / (1 - setting.rate))
    drawn = [_changes(setting, gain, rng) for _ in range(num_draws)]
    shown = np.mean([_is_shown(changes) for changes in drawn])
    both = np.mean([_is_shown(changes) and _lies_above(changes) for changes in drawn])
    print(
        f"| {setting.num_tasks} | {setting.num_attempts} | {setting.rate} | {alarms:.3f} | "
        f"{gain * (1 - setting.rate):.3f} | {shown:.3f} | {both:.3f} |"
    )


def _could_show(setting: Setting, gain: float, rng: np.random.Generator) -> float:
    found = [detectable_difference(_changes(setting, gain, rng)) for _ in range(100)]
    return float(np.mean([one for one in found if one is not None]))


def _is_shown(changes: Sequence[float]) -> bool:
    return flip_test(changes).p_value <= 0.05


def _lies_above(changes: Sequence[float]) -> bool:
    found = difference_interval(changes)
    return found is not None and found.is_above_zero


PARTS: Mapping[str, Callable[[int, np.random.Generator], None]] = {
    "success": success,
    "rewards": rewards,
    "differences": differences,
    "tests": tests,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000, help="of each setting")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parsed = parser.parse_args()
    print(f"{parsed.draws} draws a setting: coverage is known to about 0.005")
    for name in parsed.part or PARTS:
        PARTS[name](parsed.draws, np.random.default_rng(0))


if __name__ == "__main__":
    main()
