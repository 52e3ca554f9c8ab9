"""A sweep in words: a table of its settings, and which of them the seeds recommend."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from recipe.evaluation.paired_seeds import Difference, difference, half_width, seeds_that_would_tell

_NOTHING = Difference(float("inf"), None, (0.0, 0.0), ())  # of settings that share no seed


class Row(NamedTuple):
    """What the seeds say of one setting."""

    name: str  # as it is typed
    points: dict[int, dict[str, Any]]  # by seed
    right: dict[int, np.ndarray]  # by seed, which validation pairs were answered rightly
    together: float | None = None  # accuracy of the seeds' mean probabilities, where it is known

    def mean(self, part: str) -> float:
        """The seeds' mean of one of a point's figures; NaN where one has none."""
        values = [point[part] for point in self.points.values()]
        return float("nan") if None in values else float(np.mean(values))

    @property
    def half(self) -> float | None:
        """Half of the accuracy's 95 % interval over seeds (Student)."""
        return half_width([point["accuracy"] for point in self.points.values()])

    @property
    def core_minutes(self) -> float:
        """Minutes of training a run, times threads; the prefix's states were there."""
        return float(np.mean([each["train_seconds"] * each["threads"] / 60 for each in self.points.values()]))


def together(answers: Sequence[tuple[np.ndarray, np.ndarray]]) -> float | None:
    """Accuracy, in percent, of an ensemble: the mean of the seeds' probabilities; None of a single seed.

    Args:
        answers: each seed's probabilities (examples, labels), and the labels (examples,).
    """
    if len(answers) == 1:
        return None
    mean = np.mean([probabilities for probabilities, _ in answers], axis=0)
    return 100 * float((mean.argmax(-1) == answers[0][1]).mean())


def reference_of(rows: Sequence[Row], reference: str) -> Row:
    """The row that the others are compared with: the `first`, or the one with the `best` mean accuracy."""
    return rows[0] if reference == "first" else max(rows, key=lambda row: row.mean("accuracy"))


def short_names(rows: Sequence[Row]) -> tuple[str, list[str]]:
    """The flags that differ, and each setting's values of them; whole names where the settings have different flags."""
    parts = [[each.partition("=")[::2] for each in row.name.split(" ")] for row in rows]
    if len({tuple(flag for flag, _ in each) for each in parts}) > 1 or "=" not in rows[0].name:
        return "", [row.name for row in rows]
    varied = [place for place in range(len(parts[0])) if len({each[place] for each in parts}) > 1] or [0]
    return " ".join(parts[0][place][0] for place in varied), [" ".join(p[v][1] for v in varied) for p in parts]


def format_table(rows: Sequence[Row], reference: Row) -> str:
    """A line a setting: what is trained, accuracy, its paired difference from the reference, and what it costs."""
    flags, names = short_names(rows)
    wide = max(map(len, [flags, *names]))
    joined = any(row.together is not None for row in rows)
    head = f"{flags:<{wide}}{'trained':>13}{'accuracy':>10}{'+-':>6}{'seeds':>6}" + f"{'together':>10}" * joined
    head += f"{'difference':>12}{'over seeds':>17}"
    lines = [head + f"{'and pairs':>18}{'loss':>8}{'AUC':>7}{'core-min':>10}{'GB':>6}"]
    for name, row in zip(names, rows, strict=True):
        half = "-" if row.half is None else f"{row.half:.2f}"
        both = f"{'-' if row.together is None else format(row.together, '.2f'):>10}" * joined
        lines.append(
            f"{name:<{wide}}{row.mean('trainable_parameters'):>13,.0f}{row.mean('accuracy'):>10.2f}{half:>6}"
            f"{len(row.points):>6}{both}{_against(row, reference)}{row.mean('loss'):>8.4f}{row.mean('roc_auc'):>7.3f}"
            f"{row.core_minutes:>10.2f}{row.mean('peak_memory_bytes') / 1e9:>6.2f}"
        )
    points = [point for row in rows for point in row.points.values()]
    spent, encoding = (sum(point[f"{part}_seconds"] for point in points) for part in ("total", "encode"))
    lines.append(f"{len(points)} runs in {spent:.0f} s, {encoding:.0f} s of it encoding")
    if len(rows) == 1:
        return "\n".join(lines)
    lines.append(f"difference: from {reference.name}, the same seeds and pairs, in points; 95 % intervals over seeds")
    lines.append(
        "(Student: other seeds on these pairs?) and over seeds and pairs (bootstrap, never narrower: other pairs too?)"
    )
    if any(_alone(row, reference) for row in rows):
        lines.append("*: one seed; over pairs alone")
    return "\n".join(lines)


def _against(row: Row, reference: Row) -> str:
    found = None if row is reference else difference(row.right, reference.right)
    if found is None:
        return f"{'-':>12}{'-':>17}{'-':>18}"
    over_seeds = "-" if found.half is None else f"{found.mean - found.half:+.2f} to {found.mean + found.half:+.2f}"
    over_pairs = f"{found.pairs[0]:+.2f} to {found.pairs[1]:+.2f}" + "*" * _alone(row, reference)
    return f"{found.mean:>+12.2f} {over_seeds:>16} {over_pairs:>17}"


def _alone(row: Row, reference: Row) -> bool:
    """Whether a row is compared by a single seed."""
    return row is not reference and len(row.right.keys() & reference.right.keys()) == 1


def recommend(rows: Sequence[Row], tolerance: float) -> str:
    """A sentence: which setting trains least among those that cost at most `tolerance` points, if the seeds tell.

    A setting's cost is its mean difference from the best one over the same seeds, with Student's 95 % interval.
    """
    best = reference_of(rows, "best")
    if len(rows) == 1:
        return f"{best.name}: {best.mean('accuracy'):.2f}; there is nothing to compare it with."
    costs = {row.name: difference(best.right, row.right) or _NOTHING for row in rows if row is not best}
    within = [row for row in rows if row is best or costs[row.name].mean <= tolerance]
    chosen = min(within, key=lambda row: (_trained(row), -row.mean("accuracy")))
    known = [row for row in rows if row is not best and costs[row.name] is not _NOTHING]
    nearest = sorted(known, key=lambda row: costs[row.name].mean)
    cheaper = [row for row in nearest if _trained(row) < _trained(chosen)]
    if chosen is best:
        return _of_the_best(best, nearest, cheaper, costs, tolerance)
    cost = costs[chosen.name]
    against = _against_best(cost, best)
    if cost.half is None:
        return f"{_UNTOLD}: with a single one {chosen.name} has {against}. {_WANTED}"
    if cost.mean + cost.half > tolerance:
        goes = f"goes beyond {tolerance:g}; {_would_tell(cost, tolerance - cost.mean)}"
        return f"{_UNTOLD}: {chosen.name} has {against}, but the {_span(cost)} {goes}."
    told = f"{chosen.name} trains least within {tolerance:g} points: it has {against} ({_span(cost)})."
    open_ = [said for row in cheaper if (said := _undecided(row, costs[row.name], best, tolerance))]
    return f"{told} Of what trains less they do not tell: {open_[0]}" if open_ else told


_UNTOLD, _WANTED = "The seeds do not tell", "Three or more are wanted (--seeds)."


def _trained(row: Row) -> float:
    return row.mean("trainable_parameters")


def _of_the_best(
    best: Row, nearest: Sequence[Row], cheaper: Sequence[Row], costs: dict[str, Difference], tolerance: float
) -> str:
    """What is said where no mean that trains less is within the tolerance: whether the seeds show it of each.

    And whether they show that what trains as much is behind the best, and what trains more no more than the tolerance
    ahead of it.
    """
    tied = [row.name for row in nearest if row.mean("accuracy") == best.mean("accuracy")]
    behind = [row for row in nearest if row not in cheaper and row.name not in tied]
    first = f"{best.name} is the best of these" + f", with {', '.join(tied)} as good" * bool(tied)
    for row in cheaper:
        if said := _undecided(row, costs[row.name], best, tolerance):
            return f"{_UNTOLD}: {said}"
    if cheaper:
        first += f", and nothing that trains less is within {tolerance:g} points of it"
    for row in behind:
        limit = 0.0 if _trained(row) == _trained(best) else -tolerance
        if said := _undecided(row, costs[row.name], best, limit):
            return f"{first}. Of the others they do not tell: {said}" if cheaper else f"{_UNTOLD}: {said}"
    if cheaper or not behind:
        return f"{first}."
    cost = costs[behind[0].name]
    return f"{first}; {behind[0].name}, the next, has {cost.mean:.2f} points less ({_span(cost)})."


def _undecided(row: Row, cost: Difference, best: Row, limit: float) -> str:
    """What is said where the seeds do not show that a row costs more than `limit` points; nothing where they do."""
    if cost.half is None:
        return f"with a single one {row.name} has {_against_best(cost, best)}. {_WANTED}"
    if cost.mean - cost.half > limit:
        return ""
    reaches = f"reaches down to {limit:g} or below; {_would_tell(cost, cost.mean - limit)}"
    return f"{row.name} has {_against_best(cost, best)}, but the {_span(cost)} {reaches}."


def _against_best(cost: Difference, best: Row) -> str:
    if cost.mean == 0:
        return f"as many points as {best.name}, the best"
    return f"{cost.mean:.2f} points less than {best.name}, the best"


def _span(cost: Difference) -> str:
    assert cost.half is not None
    return f"95 % interval over seeds {cost.mean - cost.half:.2f} to {cost.mean + cost.half:.2f}"


def _would_tell(cost: Difference, margin: float) -> str:
    enough = seeds_that_would_tell(cost.by_seed, margin)
    return f"{enough} seeds like these would tell" if enough else "no number of seeds up to a thousand would tell"
