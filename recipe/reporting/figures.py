"""A run's figures: how it learned, what it confuses, whether its probabilities can be believed, its scores."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipe.evaluation.metrics import calibration_bins

INK, LOUD, QUIET = "#333333", "#c0392b", "#2c6fbb"


def new_figure(width: float, height: float) -> Any:
    """A figure in inches, drawn by Agg whatever MPLBACKEND says: a notebook sets what its children may not have."""
    os.environ["MPLBACKEND"] = "Agg"
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second, and no display is asked for
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _new_axes(width: float = 6.0) -> tuple[Any, Any]:
    figure = new_figure(width, 4)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG; the same bytes for the same figure."""
    figure.savefig(path, dpi=110, metadata={"Software": None})  # nothing in it that changes from run to run


def draw_learning_curve(log_history: Sequence[dict[str, Any]], path: Path) -> None:
    """Training loss over epochs, and accuracy with the majority baseline, or Pearson; from the Trainer's log."""
    losses = [(entry["epoch"], entry["loss"]) for entry in log_history if "loss" in entry]
    key, title = ("eval_accuracy", "accuracy")
    if any("eval_pearson" in entry for entry in log_history):
        key, title = ("eval_pearson", "Pearson's correlation")
    scores = [(entry["epoch"], entry[key]) for entry in log_history if entry.get(key) is not None]
    majority = next((e["eval_majority_baseline"] for e in log_history if "eval_majority_baseline" in e), None)
    figure, axes = _new_axes()
    if losses:
        axes.plot(*zip(*losses, strict=True), color=QUIET, linewidth=1.2)
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss", color=QUIET)
    if scores:
        right = axes.twinx()
        right.spines["top"].set_visible(False)
        right.plot(*zip(*scores, strict=True), color=LOUD, marker="o")
        right.set_ylabel(f"validation: {title}", color=LOUD)
        if majority is not None:
            right.axhline(majority, color=LOUD, linestyle=":", linewidth=1)
            low = min(majority, *(value for _, value in scores))
            high = max(majority, *(value for _, value in scores))
            margin = max(0.01, 0.15 * (high - low))
            right.set_ylim(low - margin, high + margin)
        beside = "accuracy against always answering the majority (dotted)" if majority is not None else title
        axes.set_title(f"training loss, and {beside}", fontsize=9)
    save_figure(figure, path)


def draw_scatter(scores: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Scores against labels, (examples,) each, a dot a pair; on the line they are the same."""
    figure, axes = _new_axes(4.6)
    ends = [float(min(scores.min(), labels.min())), float(max(scores.max(), labels.max()))]
    axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle=":")
    axes.scatter(labels, scores, s=8, color=QUIET, alpha=0.4, linewidths=0)
    axes.set_xlabel("label")
    axes.set_ylabel("answered")
    axes.set_title("scores by label (dotted: the same)", fontsize=9)
    save_figure(figure, path)


def draw_confusion(counts: Sequence[Sequence[int]], names: Sequence[str], path: Path) -> None:
    """The confusion matrix, rows the true labels; names that the font or its formulas would change become ids."""
    plain = re.compile(r"[\w .,:+-]{1,20}", re.ASCII)
    shown = [name if plain.fullmatch(name) else str(number) for number, name in enumerate(names)]
    table = np.asarray(counts)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    figure, axes = _new_axes(4.6)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*table.shape):
        color = "white" if shares[row, column] > 0.5 else INK
        text = f"{table[row, column]:,}\n{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=color)
    axes.set_xticks(range(len(shown)), shown)
    axes.set_yticks(range(len(shown)), shown, rotation=90, va="center")
    axes.set_xlabel("answered")
    axes.set_ylabel("true label")
    axes.set_title("answers by true label", fontsize=9)
    save_figure(figure, path)


def draw_reliability(probabilities: np.ndarray, labels: np.ndarray, error: float, path: Path) -> None:
    """Accuracy against confidence (examples, labels), a dot a bin, as large as the bin has examples."""
    figure, axes = _new_axes(4.6)
    bins = calibration_bins(probabilities, labels)
    counts, confidences, accuracies = (np.array(values) for values in zip(*bins, strict=True))
    start = 1 / probabilities.shape[1]
    axes.plot([start, 1], [start, 1], color=INK, linewidth=0.8, linestyle=":")
    axes.scatter(confidences, accuracies, s=12 + 300 * counts / counts.sum(), color=QUIET, alpha=0.8)
    axes.set_xlim(start - 0.02, 1.02)
    axes.set_ylim(min(0.4, accuracies.min() - 0.05), 1.04)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.set_title(f"calibration: expected error {error:.3f} (dots as large as their bin)", fontsize=9)
    save_figure(figure, path)
