"""A sweep as a picture: accuracy against the time that it costs, and the settings that nothing beats in both."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from recipe.reporting.figures import INK, LOUD, QUIET, new_figure, save_figure
from recipe.studies.summary import Row, short_names


def front(rows: Sequence[Row]) -> list[Row]:
    """The settings that no other beats in both accuracy and core-minutes, from quick to slow."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.core_minutes, -row.mean("accuracy"))):
        if not best or row.mean("accuracy") > best[-1].mean("accuracy"):
            best.append(row)
    return best


def draw_sweep(rows: Sequence[Row], majority: float, path: Path) -> None:
    """Mean accuracy with its interval over seeds, and each seed's, against core-minutes of training; the Pareto front.

    Args:
        majority: accuracy of always answering the majority label, in percent.
    """
    figure = new_figure(7.2, 4.8)
    axes = figure.add_subplot()
    best, names = front(rows), short_names(rows)[1]
    axes.plot([each.core_minutes for each in best], [each.mean("accuracy") for each in best], color=QUIET, linewidth=1)
    places = [(row.core_minutes, row.mean("accuracy"), row.half or 0.0) for row in rows]
    colors = [QUIET if row in best else INK for row in rows]
    for row, (x, y, half), color in zip(rows, places, colors, strict=True):
        axes.errorbar([x], [y], yerr=[half], color=color, marker="o", capsize=3)
        values = [point["accuracy"] for point in row.points.values()]
        axes.plot([x] * len(values), values, ".", color=INK, alpha=0.4, markersize=4)
    axes.axhline(majority, color=LOUD, linestyle=":", linewidth=1)
    slowest, quickest = (choose(row.core_minutes for row in rows) for choose in (max, min))
    if slowest > 10 * quickest > 0:
        axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_xlabel("core-minutes of training a run, prefix states found")
    axes.set_ylabel("validation accuracy, %")
    axes.set_title("mean and 95 % interval over seeds; line: Pareto front; dotted: majority answer", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.draw_without_rendering()  # only then it is known where a point lies on the page
    _write_names(axes, places, names, colors)
    save_figure(figure, path)


NEAR, FAR = (-12, 6), (-24, 18, -36, 30, -48, 42, -60, 54, -72, 66, -84, 78)  # points above a mark


def _write_names(
    axes: Any, places: Sequence[tuple[float, float, float]], names: Sequence[str], colors: Sequence[str]
) -> None:
    """Each name beside its point, where it covers no other name, point or interval; a line leads to one that is far."""
    from matplotlib.transforms import Bbox

    intervals = [[(x, y - half), (x, y + half)] for x, y, half in places]
    taken = [Bbox(axes.transData.transform(each)).padded(5) for each in intervals]
    for name, (*place, _), color in zip(names, places, colors, strict=True):
        style = {"textcoords": "offset points", "fontsize": 8, "color": color}
        for up, side in product((*NEAR, *FAR), (6, -6)):
            text = axes.annotate(name, place, (side, up), ha="left" if side > 0 else "right", **style)
            box = text.get_window_extent()
            if (up, side) == (FAR[-1], -6) or not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        taken.append(box)
        if up in FAR:
            line = {"arrowstyle": "-", "linewidth": 0.5, "color": color, "shrinkA": 0}
            axes.annotate("", place, (side, up + 4), textcoords="offset points", arrowprops=line)
