"""How deep to freeze: accuracy against the number of frozen layers, over several seeds, from one prefix pass.

    python -m recipe.sweep configs/afqmc.yaml --depths 8 9 10 11 12 --seeds 42 43 44 --tolerance 0.5

Depths are taken from shallow to deep, so that each prefix cache goes on from the one before, which is then dropped.
Each point is an ordinary run; a stopped sweep goes on where it was, and no point is trained twice.
"""

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from recipe.arguments import RecipeArguments
from recipe.durable import locked, write_json
from recipe.errors import UserError, exit_on_error
from recipe.figures import draw_sweep
from recipe.loading import load_config
from recipe.parsing import parse
from recipe.prefix_cache import list_caches
from recipe.reporting import RunReport
from recipe.resuming import given_arguments
from recipe.training import train

RESULTS, FIGURE, LOG = "sweep.json", "sweep.png", "sweep.log"


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


def sweep(words: list[str], depths: Sequence[int] | None, seeds: Sequence[int], tolerance: float) -> str:
    """Train each depth with each seed; returns the recommendation. sweep.json and sweep.png are in output_dir.

    Args:
        words: a command line of run_freeze.py.
        depths: numbers of frozen layers; None for all of the model's.
        tolerance: the accuracy, in points, that freezing may cost.

    Raises:
        UserError: the model has no such depth, or output_dir holds a sweep with other arguments.
    """
    base = parse(words)
    layers = load_config(base.model)[0].num_hidden_layers
    chosen = sorted(set(range(layers + 1) if depths is None else depths))
    if chosen[0] < 0 or chosen[-1] > layers:
        raise UserError(
            f"--depths {' '.join(map(str, chosen))}: the model has {layers} layers; 0 to {layers} is expected"
        )
    folder = Path(base.training.output_dir or ".")
    with locked(folder):
        record = _open_record(folder / RESULTS, base)
        total = len(chosen) * len(seeds)
        for number, (depth, seed) in enumerate(((depth, seed) for depth in chosen for seed in seeds), 1):
            if not _find(record, depth, seed):
                record["points"].append(_train_point(words, folder, record, depth, seed))
                write_json(folder / RESULTS, record)
                _drop_shallower(Path(base.cache.prefix_cache_dir), record["caches"], depth)
            point = _find(record, depth, seed)[0]
            print(
                f"{number:>3} of {total}  depth {depth:>2}  seed {seed}  accuracy {point['accuracy']:.2f}", flush=True
            )
    summaries = summarise(record["points"], chosen, seeds)
    told = recommend(summaries, tolerance)
    draw_sweep(summaries, record["majority"], folder / FIGURE)
    print(f"\n{format_table(summaries, record['points'])}\n\n{told}\n\nfigure          {folder / FIGURE}")
    return told


def _open_record(path: Path, base: RecipeArguments) -> dict[str, Any]:
    """What an earlier call of the same sweep has found out."""
    settings = json.loads(json.dumps(given_arguments(base), default=str))
    settings["model_name_or_path"] = base.model.model_name_or_path
    settings.pop("training.seed")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"settings": settings, "data": None, "majority": None, "caches": [], "points": []}
    except ValueError as error:
        raise UserError(f"{path}: not JSON; remove it, or name another --output_dir") from error
    different = [key for key in settings if record["settings"].get(key) != settings[key]]
    if different:
        old, new = record["settings"].get(different[0]), settings[different[0]]
        raise UserError(
            f"--{different[0].split('.')[-1]} {new}: {path} was begun with {old}; give the old one, or name another "
            "--output_dir"
        )
    return record


def _find(record: dict[str, Any], depth: int, seed: int) -> list[dict[str, Any]]:
    return [point for point in record["points"] if (point["depth"], point["seed"]) == (depth, seed)]


def layers_to_freeze(depth: int) -> str:
    """--freeze_layers for a depth."""
    return {0: "none", 1: "0"}.get(depth, f"0-{depth - 1}")


def _train_point(words: list[str], folder: Path, record: dict[str, Any], depth: int, seed: int) -> dict[str, Any]:
    """Train one point in a folder of its own, which is removed when its result is known."""
    place = folder / f"depth-{depth}-seed-{seed}"
    point = [f"--freeze_layers={layers_to_freeze(depth)}", f"--seed={seed}", f"--output_dir={place}"]
    arguments = parse([*words, *point, "--model_card=false", "--save_total_limit=1"])
    caches = Path(arguments.cache.prefix_cache_dir)
    before = {path.name for path, _, _ in list_caches(caches)}
    with open(folder / LOG, "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        report = train(arguments)
    record["caches"] += [path.name for path, _, _ in list_caches(caches) if path.name not in before]
    result = _result(place, report)
    data = result.pop("data")
    if record["data"] not in (None, data):
        raise UserError(f"{folder / RESULTS}: was begun with other data; name another --output_dir")
    record["data"], record["majority"] = data, result.pop("majority")
    shutil.rmtree(place)
    return {"depth": depth, "seed": seed, **result}


def _result(place: Path, report: RunReport | None) -> dict[str, Any]:
    """What a finished run left behind; `report` is None where it had been finished before a kill."""
    run = json.loads((place / "run.json").read_text(encoding="utf-8"))
    scores = json.loads((place / "all_results.json").read_text(encoding="utf-8"))
    if "eval_accuracy" not in scores:
        raise UserError("--eval_strategy no: a sweep compares accuracies; epoch or steps is expected")
    return {
        "accuracy": round(100 * scores["eval_accuracy"], 4),
        "majority": 100 * scores["eval_majority_baseline"],
        "trainable": run["trainable_parameters"],
        "encode_seconds": run["encode_seconds"],
        "train_seconds": run["train_seconds"],
        "total_seconds": run["total_seconds"],
        "data": run["identity"]["data"],
    }


def _drop_shallower(directory: Path, made: list[str], depth: int) -> None:
    """Remove the caches that this sweep made for depths above which the pass has moved."""
    for path, _, manifest in list(list_caches(directory)):
        if path.name in made and manifest is not None and manifest["depth"] < depth:
            shutil.rmtree(path)


def summarise(points: Sequence[dict[str, Any]], depths: Sequence[int], seeds: Sequence[int]) -> list[Depth]:
    """The points of those depths and seeds, a depth each."""
    summaries = []
    for depth in depths:
        here = [point for point in points if point["depth"] == depth and point["seed"] in seeds]
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


def main() -> None:
    """A sweep from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipe.sweep",
        description="Accuracy against depth. Other flags are those of run_freeze.py.",
        allow_abbrev=False,
    )
    parser.add_argument("--depths", nargs="+", type=int, help="numbers of frozen layers; all of them by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--tolerance", type=float, default=0.5, help="points of accuracy that freezing may cost")
    ours, words = parser.parse_known_args(sys.argv[1:])
    sweep(words, ours.depths, ours.seeds, ours.tolerance)


if __name__ == "__main__":
    exit_on_error(main)
