"""What several seeds say of each depth of freezing, and which depth they recommend."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from recipe.errors import UserError


class Depth(NamedTuple):
    """What the seeds say of one depth; accuracies in percent."""

    depth: int
    accuracies: dict[int, float]  # by seed
    trainable: int
    seconds: float  # of training, the mean of the seeds

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return float(np.mean(list(self.accuracies.values())))

    @property
    def half_width(self) -> float | None:
        """Half of the mean's 95 % interval over seeds (Student); None for a single seed."""
        return half_width(list(self.accuracies.values()))


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of a mean (Student's t); None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))


def layers_to_freeze(depth: int) -> str:
    """--freeze_layers for a depth."""
    return {0: "none", 1: "0"}.get(depth, f"0-{depth - 1}")


def choose_depths(depths: Sequence[int] | None, layers: int) -> list[int]:
    """The depths to train, from shallow to deep; all that a model of so many layers has where none are named.

    Raises:
        UserError: the model has no such depth.
    """
    chosen = sorted(set(range(layers + 1) if depths is None else depths))
    if chosen[0] < 0 or chosen[-1] > layers:
        raise UserError(
            f"--depths {' '.join(map(str, chosen))}: the model has {layers} layers; 0 to {layers} is expected"
        )
    return chosen


def summarise(points: Sequence[dict[str, Any]], depths: Sequence[int]) -> list[Depth]:
    """The points of those depths, a depth each."""
    summaries = []
    for depth in depths:
        here = [point for point in points if point["depth"] == depth]
        accuracies = {point["seed"]: point["accuracy"] for point in here}
        seconds = float(np.mean([point["train_seconds"] for point in here]))
        summaries.append(Depth(depth, accuracies, here[0]["trainable"], seconds))
    return summaries


def recommend(depths: Sequence[Depth], tolerance: float) -> str:
    """A sentence: the deepest freeze that costs at most `tolerance` points, or that the seeds do not tell.

    The cost of a depth is its mean difference from the best depth over the same seeds, with its 95 % interval.
    """
    best = max(depths, key=lambda each: (each.mean, each.depth))
    costs = {each.depth: _cost(best, each) for each in depths if each.depth >= best.depth}
    likely = max(depth for depth, (mean, _) in costs.items() if mean <= tolerance)
    certain = max(
        d for d, (mean, half) in costs.items() if d == best.depth or (half is not None and mean + half <= tolerance)
    )
    mean, half = costs[likely]
    freeze = f"--freeze_layers {layers_to_freeze(likely)}"
    if likely == best.depth:
        return f"{freeze} is the best of these depths, and nothing deeper is within {tolerance:g} points of it."
    against = f"{mean:.2f} points less than {layers_to_freeze(best.depth)}, the best"
    if half is None:
        return f"The seeds do not tell: with a single one {freeze} has {against}. Three or more are wanted (--seeds)."
    span = f"95 % interval {mean - half:.2f} to {mean + half:.2f}"
    if likely == certain:
        return f"{freeze} is the deepest within {tolerance:g} points: it has {against} ({span})."
    return (
        f"The seeds do not tell: {freeze} has {against}, but the {span} goes beyond {tolerance:g}. Certain is "
        f"--freeze_layers {layers_to_freeze(certain)}; more --seeds would tell."
    )


def _cost(best: Depth, other: Depth) -> tuple[float, float | None]:
    shared = [seed for seed in best.accuracies if seed in other.accuracies]
    losses = [best.accuracies[seed] - other.accuracies[seed] for seed in shared]
    return float(np.mean(losses)), half_width(losses) if best is not other else 0.0


def format_table(depths: Sequence[Depth], points: Sequence[dict[str, Any]]) -> str:
    """A line a depth: what is trained, accuracy with its interval over seeds, and seconds of training a run."""
    lines = [f"{'frozen':<8}{'trained':>14}{'accuracy':>10}{'+-':>7}{'seeds':>7}{'s a run':>9}"]
    for each in depths:
        half = "-" if each.half_width is None else f"{each.half_width:.2f}"
        lines.append(
            f"{layers_to_freeze(each.depth):<8}{each.trainable:>14,}{each.mean:>10.2f}{half:>7}{len(each.accuracies):>7}"
            f"{each.seconds:>9.0f}"
        )
    spent = sum(point["total_seconds"] for point in points)
    encoding = sum(point["encode_seconds"] for point in points)
    lines.append(f"{len(points)} runs in {spent:.0f} s, {encoding:.0f} s of it encoding")
    return "\n".join(lines)
