import numpy as np
import pytest

from recipe.evaluation.comparing import mcnemar, mean_difference, order_consistency


def test_mcnemar_counts_who_alone_was_right():
    first, second = np.array([True] * 12 + [False] * 8), np.array([True] * 2 + [False] * 17 + [True])
    assert mcnemar(first, second) == {
        "only_first_right": 10,
        "only_second_right": 1,
        "p_value": pytest.approx(0.011719, abs=1e-6),
    }
    assert mcnemar(first, first)["p_value"] == 1.0


def test_answers_in_both_orders():
    one, other = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]), np.array([[0.8, 0.2], [0.1, 0.9], [0.4, 0.6]])
    found = order_consistency(one, other, np.array([0, 1, 0]))
    assert found["order_consistency"] == pytest.approx(2 / 3)
    assert found["order_gap"] == pytest.approx((0 + 0.5 + 0.1) / 3)
    assert found["both_orders_accuracy"] == pytest.approx(2 / 3)


def test_a_differences_interval_is_the_bootstraps():
    draws = np.random.default_rng(1)
    first, second = draws.random(2000) < 0.75, draws.random(2000) < 0.7
    found = mean_difference(first, second)
    gains = first.astype(float) - second
    means = [gains[draws.integers(2000, size=2000)].mean() for _ in range(2000)]
    assert found["difference"] == pytest.approx(first.mean() - second.mean())
    expected = np.quantile(means, (0.025, 0.975))
    assert [found["difference_low"], found["difference_high"]] == pytest.approx(expected, abs=0.003)
    none = {"difference_low": None, "difference_high": None}
    assert mean_difference(first, first) == {"difference": 0.0, **none}
    assert mean_difference(np.ones(5, bool), np.zeros(5, bool)) == {"difference": 1.0, **none}


def test_a_difference_of_squared_errors_is_less_where_the_first_is_better():
    draws = np.random.default_rng(2)
    first, second = draws.random(500), draws.random(500) + 0.2
    found = mean_difference(first, second)
    assert found["difference"] == pytest.approx((first - second).mean())
    assert found["difference_low"] < found["difference"] < found["difference_high"] < 0
