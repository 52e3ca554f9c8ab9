"""The chart of a benchmark's results."""

import os
from pathlib import Path
from typing import Any

from benchmarks.rows import BATCH, METHODS, ROWS

COLOURS = {"float32": "#a3b8d9", "bfloat16": "#4c72b0"}


def draw(content: dict[str, Any], path: Path) -> None:
    """A bar chart of three epochs, encoding apart from training, a bar for each type."""
    os.environ["MPLBACKEND"] = "Agg"  # whatever a notebook has set
    from matplotlib import pyplot

    systems = content["systems"]
    letters = [letter for letter in METHODS if any(key[0] == letter for key in systems)]
    minutes = {key: system["three_epochs_seconds"] / 60 for key, system in systems.items()}
    # the padded ones would press all others into a corner: their bars end at the edge, their numbers tell
    edge = 1.05 * max([value for key, value in minutes.items() if not ROWS[key].method.padded] or minutes.values())
    figure, axes = pyplot.subplots(figsize=(8, 0.55 * len(letters) + 1.2), layout="constrained")
    seen: set[str] = set()

    def label(name: str) -> str:
        """The name for the first bar of its kind, nothing for the others: one line each in the legend."""
        first = name not in seen
        seen.add(name)
        return name if first else ""

    for key, system in systems.items():
        type_, both = ROWS[key].type, {key[0], key[0] + "16"} <= systems.keys()
        place = letters.index(key[0]) + (0.0 if not both else 0.2 if ROWS[key].bf16 else -0.2)
        first, height = system["encode_seconds"] / 60, 0.38
        rest = min(minutes[key], edge) - first
        axes.barh(place, rest, height, left=first, color=COLOURS[type_], label=label(f"three epochs, {type_}"))
        if first:
            axes.barh(place, first, height, color="#dd8452", label=label("encoding, once"))
        axes.text(first + rest, place, f" {minutes[key]:.0f}", va="center", fontsize="small")
    axes.set_yticks(range(len(letters)), [METHODS[letter].name for letter in letters])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08 * edge)
    axes.set_xlabel(f"minutes for three epochs of AFQMC at batch {BATCH}, BERT-base ({content['machine']['device']})")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
