import itertools

import numpy as np
import pytest
from scipy.stats import ttest_rel

from recipe.evaluation.paired_seeds import ROUNDS, bootstrap, difference, half_width, seeds_that_would_tell


def test_half_width_by_hand():
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / 3**0.5)
    assert half_width([1.0]) is None


def make_right(seeds, pairs, share, start=0):
    draws = np.random.default_rng(start)
    return {seed: draws.random(pairs) < share for seed in seeds}


def test_a_difference_is_over_shared_seeds_and_its_interval_is_the_paired_t_tests():
    mine, other = make_right((1, 2, 3, 4), 50, 0.8), make_right((2, 3, 4, 5), 50, 0.6, start=1)
    found = difference(mine, other)
    accuracies = [[100 * side[seed].mean() for seed in (2, 3, 4)] for side in (mine, other)]
    expected = ttest_rel(*accuracies).confidence_interval(0.95)
    assert found.by_seed == pytest.approx(np.subtract(*accuracies))
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((expected.low, expected.high))
    assert difference(mine, make_right((9,), 50, 0.5)) is None
    assert difference({1: mine[1]}, {1: mine[2]}).half is None


def test_an_interval_over_seeds_and_pairs_holds_that_over_seeds():
    for seeds in (2, 3, 10):
        mine, other = make_right(range(seeds), 400, 0.8), make_right(range(seeds), 400, 0.6, start=1)
        found = difference(mine, other)
        (low, high), drawn = found.pairs, bootstrap(100 * np.stack([mine[s].astype(float) - other[s] for s in mine]))
        assert (low, high) == (min(drawn[0], found.mean - found.half), max(drawn[1], found.mean + found.half))
    one = difference({1: mine[1]}, {1: other[1]})
    assert one.pairs == bootstrap(100 * (mine[1].astype(float) - other[1])[None])


def test_the_bootstrap_draws_seeds_and_pairs():
    """Every draw of two seeds and three pairs, of which the bootstrap's are a sample."""
    gains = np.array([[100.0, 0, 0], [0, 100, -100]])
    every = [
        gains[np.ix_(seeds, pairs)].mean()
        for seeds in itertools.product(range(2), repeat=2)
        for pairs in itertools.product(range(3), repeat=3)
    ]
    assert bootstrap(gains) == pytest.approx(np.quantile(every, (0.025, 0.975), method="inverted_cdf"), abs=12)
    assert bootstrap(gains) == bootstrap(gains)
    assert bootstrap(np.ones((3, 4))) == (1.0, 1.0)


def test_the_bootstraps_spread_is_that_of_its_two_sources():
    draws = np.random.default_rng(2)
    gains = draws.normal(0, 3, (6, 1)) + draws.normal(0, 10, (1, 400)) + draws.normal(0, 5, (6, 400))
    low, high = bootstrap(gains)
    of_seeds, of_pairs = np.var(gains.mean(1)) / 6, np.var(gains.mean(0)) / 400
    expected = 2 * 1.96 * np.sqrt(of_seeds + of_pairs)
    assert high - low == pytest.approx(expected, rel=0.1)
    assert ROUNDS >= 1000


def test_the_seeds_that_would_tell_put_the_interval_within_the_margin():
    by_seed, spread = [0.0, 1.0, 2.0], 1.0
    enough = seeds_that_would_tell(by_seed, 0.5)

    def half(seeds):
        values = np.resize([-1.0, 1.0], seeds)
        return half_width(values * spread / np.std(values, ddof=1))

    assert half(enough) <= 0.5 < half(enough - 1)
    assert seeds_that_would_tell([1.0], 0.5) is None
    assert seeds_that_would_tell(by_seed, 0.0) is None
    assert seeds_that_would_tell(by_seed, 1e-3) is None
