"""95% intervals of means over tasks, whatever number of attempts each task had.

Tasks are what was drawn at random; attempts at one task are alike and are no further draws. So
everything here takes one number a task. How often each interval holds the truth, and which others
were tried, `benchmarks/interval_coverage.py` prints.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean

CONFIDENCE = 0.95
_UPPER = (1 + CONFIDENCE) / 2
_POWER = 0.8
_MIN_TASKS = 2
"""Of fewer, how much tasks differ cannot be known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Holds the true value with a probability of 95% over the draw of the tasks."""

    low: float
    high: float

    @property
    def is_above_zero(self) -> bool:
        return self.low > 0

    @property
    def is_below_zero(self) -> bool:
        return self.high < 0


def share_interval(values: Sequence[float], *, num_attempts: int) -> Interval | None:
    """Of the mean of shares, one a task and each from 0 to 1; None for fewer than two tasks.

    Wilson's score interval (JASA 22, 1927, 209-212) with the number of independent attempts that
    the spread between tasks tells of: the effective sample size of Korn and Graubard (Survey
    Methodology 24, 1998, 193-201), between the number of tasks and `num_attempts`, the number of
    all attempts. With one attempt a task it is plain Wilson; where all shares are 0 or all 1 it is
    that of the tasks. The quantile is Student's where there are several attempts, since the spread
    is estimated.
    """
    if len(values) < _MIN_TASKS:
        return None
    return _score_interval(values, num_attempts=num_attempts)


def mean_interval(
    values: Sequence[float], *, bounds: tuple[float, float], num_attempts: int | None
) -> Interval | None:
    """Of the mean of rewards, one mean a task; None for fewer than two tasks, or without spread.

    The same interval within `bounds`, the lowest and highest reward of a single attempt. It is
    Student's where values lie far from both, and follows the skew where most lie at one.
    `num_attempts` is that of all attempts where each reward was one of the bounds, else None.
    """
    low, high = bounds
    if len(values) < _MIN_TASKS or high <= low:
        return None
    if num_attempts is None and len(set(values)) == 1:
        return None
    shares = [min(1.0, max(0.0, (value - low) / (high - low))) for value in values]
    found = _score_interval(shares, num_attempts=num_attempts)
    width = high - low
    return Interval(low=low + width * found.low, high=low + width * found.high)


def difference_interval(differences: Sequence[float]) -> Interval | None:
    """Of the mean of paired differences, one a task; None for fewer than two tasks.

    Wald's interval with two tasks added, one that gained and one that lost, as Bonett and Price
    do for matched pairs of successes (J. Educ. Behav. Stat. 37, 2012, 479-488). What they gained
    and lost lies half way between the typical and the largest change that was seen; 1, the whole
    range of a share, where none was.
    """
    if len(differences) < _MIN_TASKS:
        return None
    mean, error = _stable_mean(differences)
    reach = NormalDist().inv_cdf(_UPPER) * error
    return Interval(low=mean - reach, high=mean + reach)


def detectable_difference(differences: Sequence[float]) -> float | None:
    """The smallest true difference that so many tasks show with 80% power at 5%, two-sided.

    (z_0.975 + z_0.8) times the standard error of the paired difference: Bloom 1995, "Minimum
    detectable effects", Evaluation Review 19 (5), 547-556; for evaluations of models Miller 2024,
    arXiv 2411.00640, section 5. To it comes half a step of the exact test, which is what one task
    adds by its smallest change. None for fewer than two tasks.
    """
    if len(differences) < _MIN_TASKS:
        return None
    _, error = _stable_mean(differences)
    normal = NormalDist()
    half_step = min((abs(d) for d in differences if d), default=1.0) / len(differences)
    return (normal.inv_cdf(_UPPER) + normal.inv_cdf(_POWER)) * error + half_step


def _score_interval(shares: Sequence[float], *, num_attempts: int | None) -> Interval:
    """`num_attempts=None`: of values of which nothing tells how many draws they are."""
    num_tasks = len(shares)
    mean = fmean(shares)
    squares = [(share - mean) ** 2 for share in shares]
    spread = sum(squares) / (num_tasks - 1)
    most = math.inf if num_attempts is None else float(max(num_attempts, num_tasks))
    size = _num_independent(mean, spread, num_tasks=num_tasks, most=most)
    is_counted = num_attempts is not None and num_attempts <= num_tasks
    quantile = NormalDist().inv_cdf(_UPPER) if is_counted else t_quantile(_degrees(squares))
    pull = quantile**2 / size
    centre = (mean + pull / 2) / (1 + pull)
    reach = math.sqrt(pull * mean * (1 - mean) + pull**2 / 4) / (1 + pull)
    return Interval(low=max(0.0, centre - reach), high=min(1.0, centre + reach))


def _degrees(squares: Sequence[float]) -> int:
    """Degrees of freedom of a variance that was estimated from these squared deviations.

    2 n / (kurtosis - (n - 3) / (n - 1)): O'Neill 2014, The American Statistician 68 (4), 282-296,
    result 10. Where few tasks differ from all others they alone tell of it, and these are few.
    """
    size, mean = len(squares), fmean(squares)
    if mean <= 0:
        return size - 1
    kurtosis = fmean(square**2 for square in squares) / mean**2
    excess = kurtosis - (size - 3) / (size - 1)
    return size - 1 if excess <= 0 else round(min(max(2 * size / excess, 3), size - 1))


def _num_independent(mean: float, spread: float, *, num_tasks: int, most: float) -> float:
    """As many single attempts would make the mean as sure as the spread between tasks does."""
    of_one = mean * (1 - mean)
    if of_one <= 0:
        return num_tasks
    if spread <= 0:
        return most
    return min(max(of_one * num_tasks / spread, num_tasks), most)


def _stable_mean(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error with a task added that gained, and one that lost."""
    size = len(differences) + 2
    typical = math.sqrt(fmean(d * d for d in differences))
    largest = max(abs(d) for d in differences)
    added = (typical + largest) / 2 or 1.0
    mean = sum(differences) / size
    spread = (sum(d * d for d in differences) + 2 * added**2) / size - mean**2
    return mean, math.sqrt(spread / size)


@lru_cache(maxsize=1024)
def t_quantile(degrees: int) -> float:
    """The 97.5% quantile of Student's t, to seven digits, by bisection of its distribution.

    The distribution is the finite sum of Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 13.0
    for _ in range(48):
        middle = (low + high) / 2
        if _t_within(middle, degrees) < CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def _t_within(value: float, degrees: int) -> float:
    """The probability that t lies between minus and plus `value`."""
    angle = math.atan2(value, math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    is_odd = degrees % 2
    term = cosine if is_odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + is_odd, degrees, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return (angle + sine * total) * 2 / math.pi if is_odd else sine * total
