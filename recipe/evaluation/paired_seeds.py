"""What paired seeds say of a difference between two settings, and how many of them would tell.

Two questions, two intervals. Student's over seeds: would other seeds, on these very validation pairs, say the same? The
bootstrap over seeds and pairs: would other seeds and other pairs from where these come from? The second is never
narrower than the first: few seeds drawn anew vary less than seeds do, so that its ends are moved out to Student's. Of a
single seed it is over pairs alone.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

ROUNDS = 4_000  # of the bootstrap: an interval's ends then move by less than a twentieth of its width
MOST_SEEDS = 1_000


class Difference(NamedTuple):
    """A mean difference of accuracies over shared seeds, in points, with its 95 % intervals."""

    mean: float
    half: float | None  # of Student's interval over seeds; None for a single seed
    pairs: tuple[float, float]  # the interval over seeds and pairs; of a single seed over pairs alone
    by_seed: tuple[float, ...]


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of a mean (Student's t); None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def difference(mine: Mapping[int, np.ndarray], other: Mapping[int, np.ndarray]) -> Difference | None:
    """How much more `mine` gets right than `other`, over the seeds that both have; None where they share none.

    Args:
        mine, other: by seed, which validation pairs were answered rightly, (pairs,).
    """
    shared = [seed for seed in mine if seed in other]
    if not shared:
        return None
    gains = 100 * np.stack([mine[seed].astype(float) - other[seed] for seed in shared])  # (seeds, pairs)
    by_seed = gains.mean(1)
    mean, half, (low, high) = float(by_seed.mean()), half_width(by_seed.tolist()), bootstrap(gains)
    if half is not None:
        low, high = min(low, mean - half), max(high, mean + half)
    return Difference(mean, half, (low, high), tuple(by_seed.tolist()))


def bootstrap(gains: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of (seeds, pairs), both drawn anew with replacement (percentiles).

    Too narrow of few seeds: the variance of n seeds drawn anew is (n - 1) / n of what it should be.
    The same for the same input: the draws are seeded.
    """
    draws = np.random.default_rng(0)
    seeds, pairs = gains.shape
    means = np.empty(ROUNDS)
    for round_ in range(ROUNDS):
        of_pairs = gains[draws.integers(seeds, size=seeds)].mean(0)
        means[round_] = of_pairs[draws.integers(pairs, size=pairs)].mean()
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def seeds_that_would_tell(by_seed: Sequence[float], margin: float) -> int | None:
    """How many seeds would put Student's interval of these differences within `margin` of their mean.

    Taken that the mean and the spread stay as they are. None where two seeds are not there, or a thousand would not do.
    """
    if len(by_seed) < 2 or margin <= 0:
        return None
    spread = float(np.std(by_seed, ddof=1))
    counts = np.arange(2, MOST_SEEDS + 1)
    enough = counts[student.ppf(0.975, counts - 1) * spread / np.sqrt(counts) <= margin]
    return int(enough[0]) if len(enough) else None
