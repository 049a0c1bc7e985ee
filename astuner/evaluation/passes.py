"""What several attempts at a task tell: whether any of k succeeds, and whether all k do."""

import math


def pass_at_k(num_attempts: int, num_successes: int, k: int) -> float:
    """Probability that at least one of k attempts succeeds; unbiased.

    1 - C(n - c, k) / C(n, k): Chen et al. 2021, arXiv 2107.03374, equation 1. Needs k attempts.
    """
    return 1 - _share_of_draws(num_attempts - num_successes, num_attempts, k)


def pass_all_k(num_attempts: int, num_successes: int, k: int) -> float:
    """Probability that all of k attempts succeed, pass^k; unbiased.

    C(c, k) / C(n, k): Yao et al. 2024, tau-bench, arXiv 2406.12045, section 5. Needs k attempts.
    """
    return _share_of_draws(num_successes, num_attempts, k)


def _share_of_draws(num_such: int, num_attempts: int, k: int) -> float:
    """Of the draws of k attempts without return, the share that are all such."""
    if not 1 <= k <= num_attempts:
        raise ValueError(f"k={k} of {num_attempts} attempts")
    return math.comb(num_such, k) / math.comb(num_attempts, k)
