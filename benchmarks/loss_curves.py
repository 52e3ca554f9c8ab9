#!/usr/bin/env python3
"""Training and evaluation losses of runs side by side, from the Trainer's logs: two types of one setting, seed by seed.

python -m benchmarks.loss_curves curves.png float32=RUN,RUN,... bfloat16=RUN,RUN,...
"""

import argparse
import json
from pathlib import Path

from recipe.file_names import STATE
from recipe.reporting.figures import LOUD, QUIET, new_figure, save_figure

STYLES = ({"color": LOUD, "linewidth": 1.4, "alpha": 0.7}, {"color": QUIET, "linewidth": 1.4, "linestyle": "--"})


def read_curve(run: Path, name: str) -> list[tuple[float, float]]:
    """(epoch, value) of each log entry of a run that has `name`: loss or eval_loss."""
    history = json.loads((run / STATE).read_text(encoding="utf-8"))["log_history"]
    return [(entry["epoch"], entry[name]) for entry in history if name in entry]


def draw(groups: dict[str, list[Path]], path: Path) -> None:
    """A panel a loss; a line a run, in its group's style."""
    figure = new_figure(9, 3.6)
    for number, (name, title) in enumerate([("loss", "training loss"), ("eval_loss", "evaluation loss")], 1):
        axes = figure.add_subplot(1, 2, number)
        for (group, runs), style in zip(groups.items(), STYLES, strict=True):
            for place, run in enumerate(runs):
                label = group if not place else None
                axes.plot(*zip(*read_curve(run, name), strict=True), label=label, **style)
        axes.set_xlabel("epoch")
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    save_figure(figure, path)


def main() -> None:
    """Draw the runs of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="where the figure goes")
    parser.add_argument("groups", nargs=2, help="NAME=RUN,RUN,... twice")
    args = parser.parse_args()
    named = [each.partition("=")[::2] for each in args.groups]
    draw({name: [Path(run) for run in runs.split(",")] for name, runs in named}, args.path)


if __name__ == "__main__":
    main()
