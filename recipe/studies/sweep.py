"""How deep to freeze: accuracy against the number of frozen layers, over several seeds, from one prefix pass.

    python -m recipe.studies.sweep configs/afqmc.yaml --depths 8 9 10 11 12 --seeds 42 43 44 --tolerance 0.5

Depths are taken from shallow to deep, so that each prefix goes on from the states of the one before.
Each point is an ordinary run; a stopped sweep goes on where it was, and no point is trained twice.
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe import file_names
from recipe.arguments import RecipeArguments
from recipe.checkpoints.identity import IDENTITY, given_arguments
from recipe.command_line.one_line_parser import OneLineParser
from recipe.command_line.parsing import parse
from recipe.command_line.ranges import check_ranges
from recipe.commands.train import train
from recipe.errors import Damaged, Missing, UserError
from recipe.model.base_model import open_base
from recipe.model.loading import load_model
from recipe.model.weights import fingerprint
from recipe.process.exiting import exit_on_error
from recipe.process.streams import tell
from recipe.reporting.figures import draw_sweep
from recipe.reporting.outputs import check_free, remove_run, staged
from recipe.studies.comparison import choose_depths, format_table, layers_to_freeze, recommend, summarise
from recipe.system.arithmetic import describe_arithmetic, other_arithmetic, refuse_other_precision
from recipe.system.files import write_json
from recipe.system.folder_lock import locked
from recipe.system.json_files import read_json

RESULTS, FIGURE, LOG = "sweep.json", "sweep.png", "sweep.log"
SECONDS = {f"{part}_seconds": float for part in ("encode", "train", "total")}
DATA = {str: (str, None)}
POINT = {"depth": int, "seed": int, "accuracy": float, "trainable": int, **SECONDS}
RECORD = {
    "settings": dict,
    "base?": dict,
    "weights?": str,
    "arithmetic?": IDENTITY["arithmetic?"],
    "data": (DATA, None),
    "majority": (float, None),
    "points": [POINT],
}
RUN = {"trainable_parameters": int, "identity": {"data": DATA}, **SECONDS}
SCORES = {"eval_accuracy?": float, "eval_majority_baseline?": float}


def sweep(words: list[str], depths: Sequence[int] | None, seeds: Sequence[int], tolerance: float) -> str:
    """Train each depth with each seed; returns the recommendation. sweep.json and sweep.png are in output_dir.

    Args:
        words: a command line of run_freeze.py.
        depths: numbers of frozen layers; None for all of the model's.
        tolerance: the accuracy, in points, that freezing may cost.

    Raises:
        UserError: the model has no such depth, or output_dir holds a sweep with other arguments.
    """
    for seed in seeds:
        check_ranges({"seed": seed})
    if not 0 <= tolerance <= 100:
        raise UserError(f"--tolerance {tolerance:g}: points of accuracy, 0 to 100, are expected")
    base = parse(words)
    opened = open_base(base.model)
    chosen = choose_depths(depths, opened.config.num_hidden_layers)
    folder = base.training.folder
    with locked(folder):
        begun = (folder / RESULTS).exists() or (folder / LOG).exists()
        check_free(folder / FIGURE, begun)
        check_free(folder / LOG, begun)
        record = _open_record(folder / RESULTS, base, fingerprint(load_model(opened).bert, trained=True))
        total = len(chosen) * len(seeds)
        for number, (depth, seed) in enumerate(((depth, seed) for depth in chosen for seed in seeds), 1):
            place = folder / f"depth-{depth}-seed-{seed}"
            if not _find(record, depth, seed):
                record["points"].append(_train_point(words, place, record, depth, seed))
                write_json(folder / RESULTS, record)
            remove_run(place)  # only now: a kill before loses no point
            point = _find(record, depth, seed)[0]
            tell(f"{number:>3} of {total}  depth {depth:>2}  seed {seed}  accuracy {point['accuracy']:.2f}")
    points = [each for depth in chosen for seed in seeds for each in _find(record, depth, seed)]
    summaries = summarise(points, chosen)
    told = recommend(summaries, tolerance)
    with staged(folder) as staging:
        draw_sweep(summaries, record["majority"], staging / FIGURE)
    tell(f"\n{format_table(summaries, points)}\n\n{told}\n\nfigure          {folder / FIGURE}")
    tell("next            make tune, for the depth that you choose (--freeze_layers in configs/tune.yaml)")
    return told


def _open_record(path: Path, base: RecipeArguments, weights: str) -> dict[str, Any]:
    """What an earlier call of the same sweep has found out, from the same `weights`."""
    settings = json.loads(json.dumps(given_arguments(base), default=str))
    settings["model_name_or_path"] = base.model.model_name_or_path
    settings.pop("training.seed")
    arithmetic, way_out = describe_arithmetic(base.training), "give the old one, or name another --output_dir"
    begun = {"settings": settings, "weights": weights, "arithmetic": arithmetic}
    try:
        record = read_json(path, RECORD)
    except Missing:
        return {**begun, "data": None, "majority": None, "points": []}
    except Damaged as damage:
        raise UserError(f"{damage}; remove it, or name another --output_dir") from None
    different = [key for key in settings if record["settings"].get(key) != settings[key]]
    if different:
        old, new = record["settings"].get(different[0]), settings[different[0]]
        raise UserError(f"--{different[0].split('.')[-1]} {new}: {path} was begun with {old}; {way_out}")
    if record.setdefault("weights", weights) != weights:
        raise UserError(
            f"--model_name_or_path {base.model.model_name_or_path}: {path} was begun with other weights; "
            "name another --output_dir"
        )
    refuse_other_precision(record.setdefault("arithmetic", arithmetic), arithmetic, str(path), way_out)
    for line in other_arithmetic(record["arithmetic"], arithmetic, str(path)):
        tell(f"note: {line}")
    return record


def _find(record: dict[str, Any], depth: int, seed: int) -> list[dict[str, Any]]:
    return [point for point in record["points"] if (point["depth"], point["seed"]) == (depth, seed)]


def _train_point(words: list[str], place: Path, record: dict[str, Any], depth: int, seed: int) -> dict[str, Any]:
    """Train one point in a folder of its own."""
    point = [f"--freeze_layers={layers_to_freeze(depth)}", f"--seed={seed}", f"--output_dir={place}"]
    arguments = parse([*words, *point, "--model_card=false", "--save_total_limit=1"])
    with open(place.parent / LOG, "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        train(arguments)
    result = _result(place)
    data = result.pop("data")
    if record["data"] not in (None, data):
        raise UserError(f"{place.parent / RESULTS}: was begun with other data; name another --output_dir")
    base = result.pop("base")
    if record.get("base", base) != base:
        raise UserError(
            f"{place.parent / RESULTS}: was begun with another base or tokenizer; name another --output_dir"
        )
    record["data"], record["base"], record["majority"] = data, base, result.pop("majority")
    return {"depth": depth, "seed": seed, **result}


def _result(place: Path) -> dict[str, Any]:
    """What a finished run left behind, be it finished now or before a kill."""
    run, scores = read_json(place / file_names.RUN, RUN), read_json(place / file_names.RESULTS, SCORES)
    if "eval_accuracy" not in scores:
        raise UserError("--eval_strategy no: a sweep compares accuracies; epoch or steps is expected")
    return {
        "accuracy": round(100 * scores["eval_accuracy"], 4),
        "majority": 100 * scores.get("eval_majority_baseline", 0),
        "trainable": run["trainable_parameters"],
        "encode_seconds": run["encode_seconds"],
        "train_seconds": run["train_seconds"],
        "total_seconds": run["total_seconds"],
        "data": run["identity"]["data"],
        "base": {name: run["identity"].get(name) for name in ("config", "tokenizer", "tokenizer_options")},
    }


def main() -> None:
    """A sweep from the command line."""
    parser = OneLineParser(
        prog="python -m recipe.studies.sweep",
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
