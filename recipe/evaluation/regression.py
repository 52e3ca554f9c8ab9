"""What a model's scores are worth: how they go with the labels, and how far they are off; SciPy's correlations."""

import math
import warnings

import numpy as np
from scipy.stats import pearsonr, spearmanr

CORRELATIONS = ("pearson", "spearman")
Z = 1.959964  # of a two-sided 95 % interval


def correlation(first: np.ndarray, second: np.ndarray, by_rank: bool = False) -> float | None:
    """Pearson's correlation of two (examples,), or Spearman's `by_rank`; None, undefined, where a side is constant."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is nearly constant
        found = float((spearmanr if by_rank else pearsonr)(first, second).statistic)
    return found if math.isfinite(found) else None


def correlation_interval(pearson: float | None, examples: int) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of Pearson's correlation by Fisher's z; all that there is where three examples or fewer are."""
    if pearson is None:
        return None, None
    if examples <= 3:
        return -1.0, 1.0
    if abs(pearson) >= 1:
        return pearson, pearson
    middle, half = math.atanh(pearson), Z / math.sqrt(examples - 3)
    return math.tanh(middle - half), math.tanh(middle + half)


def basic_scores(scores: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """What each evaluation tells of scores and labels, (examples,) each.

    pearson and spearman, None where undefined, mse, mae, and the loss, which is the mse.
    """
    errors = scores - labels
    squared = float(np.square(errors).mean())
    found: dict[str, float | None] = {"pearson": correlation(scores, labels)}
    found["spearman"] = correlation(scores, labels, by_rank=True)
    return found | {"mse": squared, "mae": float(np.abs(errors).mean()), "loss": squared}


def full_scores(scores: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """All that is said of them: `basic_scores`, and Pearson's 95 % interval, pearson_low and pearson_high."""
    found = basic_scores(scores, labels)
    low, high = correlation_interval(found["pearson"], len(labels))
    return found | {"pearson_low": low, "pearson_high": high}


def order_gap(scores: np.ndarray, swapped: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """How far scores (examples,) move with the two sentences swapped.

    order_gap is the mean absolute difference, both_orders_pearson what the mean of the two orders' scores gets.
    """
    both = correlation((scores + swapped) / 2, labels)
    return {"order_gap": float(np.abs(scores - swapped).mean()), "both_orders_pearson": both}
