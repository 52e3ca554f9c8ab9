"""Two answers to the same pairs: of two models, or of one model to both orders of the sentences."""

from typing import Any

import numpy as np
from scipy.stats import binomtest, ttest_1samp


def order_consistency(probabilities: np.ndarray, swapped: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How far answers (examples, labels) stay the same with the two sentences swapped.

    order_consistency is the share of pairs that are answered with the same label, order_gap the mean difference of the
    probabilities (total variation, 0 to 1), both_orders_accuracy what the mean of the two orders' probabilities gets.
    """
    same, gap = probabilities.argmax(-1) == swapped.argmax(-1), np.abs(probabilities - swapped).sum(-1) / 2
    both = float(((probabilities + swapped).argmax(-1) == labels).mean())
    return {"order_consistency": float(same.mean()), "order_gap": float(gap.mean()), "both_orders_accuracy": both}


def mean_difference(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """How much more the first has on average over the same pairs (examples,), with the paired 95 % interval.

    Student's of the mean of per-pair differences: of right answers each is -1, 0 or 1, so that it is accuracy's.
    Where all are equal there is no spread to make an interval of, and its ends are None.
    """
    gains = first.astype(float) - second
    if gains.min() == gains.max():
        return {"difference": float(gains.mean()), "difference_low": None, "difference_high": None}
    interval = ttest_1samp(gains, 0).confidence_interval(0.95)
    low, high = float(interval.low), float(interval.high)
    return {"difference": float(gains.mean()), "difference_low": low, "difference_high": high}


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test of two models on the same pairs, (examples,) each: who alone was right, and the p-value."""
    first, second = int((first_right & ~second_right).sum()), int((~first_right & second_right).sum())
    p_value = float(binomtest(first, first + second).pvalue) if first + second else 1.0
    return {"only_first_right": first, "only_second_right": second, "p_value": p_value}
