"""Settings compared by paired seeds: accuracy, what it costs, and whether the seeds tell them apart.

    python -m recipe.studies.sweep configs/afqmc.yaml --depths 8 10 11 12 --seeds 42 43 44 --tolerance 0.5
    python -m recipe.studies.sweep configs/afqmc.yaml --over freeze_layers=0-7,0-9 learning_rate=1e-4,3e-4 \
        --choose learning_rate --choose_seeds 40 41

Each point is an ordinary run, and is known by all that its result follows from: a stopped sweep goes on where it was,
and more seeds or values train only what they add. Deeper prefixes come later, and go on from shallower ones' states.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipe.command_line.one_line_parser import OneLineParser
from recipe.command_line.parsing import parse_training
from recipe.command_line.ranges import check_ranges
from recipe.errors import UserError
from recipe.evaluation.metrics import majority_baseline
from recipe.model.base_model import open_base
from recipe.process.exiting import exit_on_error
from recipe.process.streams import tell
from recipe.reporting.outputs import check_free, staged
from recipe.studies.pareto import draw_sweep
from recipe.studies.planning import Planned, plan
from recipe.studies.points import LOG, RESULTS, answers_of, find_or_train, open_record
from recipe.studies.settings import Setting, groups, over_depths, parse_over
from recipe.studies.summary import Row, format_table, recommend, reference_of, together
from recipe.system.files import write_json
from recipe.system.folder_lock import locked
from recipe.training_arguments import FreezeTrainingArguments

FIGURE = "sweep.png"
CHOOSE_SEEDS = (40, 41)


class Comparison(NamedTuple):
    """What is compared, and how.

    Attributes:
        over: items of `--over`; without any, `depths` are.
        depths: numbers of frozen layers; None for all of the model's, unless `over` has items.
        tolerance: the accuracy, in points, that a recommended setting may cost.
        reference: `first` or `best`: from which setting differences are told.
        choose: a flag of `over`; its best value for each setting of the others is chosen by evaluation loss.
        choose_seeds: with these seeds, which must not be among `seeds`; CHOOSE_SEEDS where none are given.
    """

    seeds: Sequence[int] = (42, 43, 44)
    over: Sequence[str] = ()
    depths: Sequence[int] | None = None
    tolerance: float = 0.5
    reference: str = "first"
    choose: str | None = None
    choose_seeds: Sequence[int] | None = None


def sweep(words: Sequence[str], asked: Comparison) -> str:
    """Train each setting with each seed; returns the recommendation. sweep.json and sweep.png are in output_dir.

    Args:
        words: a command line of run_freeze.py.

    Raises:
        UserError: a setting is refused; nothing has been trained then.
    """
    _check(asked)
    base = parse_training(words)
    choose_seeds = (asked.choose_seeds or CHOOSE_SEEDS) if asked.choose else ()
    if base.training.seed not in (FreezeTrainingArguments.seed, *asked.seeds, *choose_seeds):
        tell(f"note: --seed {base.training.seed}: not used; the points have those of --seeds")
    items = list(asked.over)
    if asked.depths is not None or not items:
        items.insert(0, over_depths(asked.depths, open_base(base.model).config.num_hidden_layers))
    settings = plan(words, parse_over(items))
    parted = groups([each.setting for each in settings], asked.choose) if asked.choose else []
    folder = base.training.folder
    with locked(folder):
        begun = (folder / RESULTS).exists() or (folder / LOG).exists()
        for name in (FIGURE, LOG):
            check_free(folder / name, begun)
        record = open_record(folder)
        if parted:
            losses = _train_all(words, folder, record, settings, choose_seeds)
            kept = [min(group, key=lambda setting: losses[setting]) for group in parted]
            settings = [each for each in settings if each.setting in kept]
            tell(f"chosen by evaluation loss: {'; '.join(each.name for each in kept)}\n")
        _train_all(words, folder, record, settings, asked.seeds)
        rows = [_row(folder, record, each, asked.seeds) for each in settings]
        told = recommend(rows, asked.tolerance)
        record["majority"] = _majority(folder, settings[0], asked.seeds[0])
        write_json(folder / RESULTS, record)
        with staged(folder) as staging:
            draw_sweep(rows, record["majority"], staging / FIGURE)
    tell(f"\n{format_table(rows, reference_of(rows, asked.reference))}\n\n{told}\n\nfigure          {folder / FIGURE}")
    mine = words[0] if words and not words[0].startswith("-") else None
    where = f"CONFIG={shlex.quote(mine)}, with" if mine else "CONFIG=..., with these flags and"
    tell(f"next            make tune {where} the setting that you choose in that file")
    return told


def _check(asked: Comparison) -> None:
    choose_seeds = asked.choose_seeds or CHOOSE_SEEDS
    for seed in (*asked.seeds, *choose_seeds):
        check_ranges({"seed": seed})
    for flag, seeds in (("seeds", asked.seeds), ("choose_seeds", choose_seeds)):
        if len(set(seeds)) < len(seeds):
            raise UserError(
                f"--{flag} {' '.join(map(str, seeds))}: a seed stands there twice; different ones are expected"
            )
    if not 0 <= asked.tolerance <= 100:
        raise UserError(f"--tolerance {asked.tolerance:g}: points of accuracy, 0 to 100, are expected")
    if asked.choose_seeds and not asked.choose:
        shown = " ".join(map(str, asked.choose_seeds))
        raise UserError(f"--choose_seeds {shown}: nothing is chosen; --choose with a flag of --over is expected")
    both = set(asked.seeds) & set(choose_seeds)
    if asked.choose and both:
        raise UserError(f"--choose_seeds {min(both)}: reported too (--seeds); a choice by reported seeds flatters it")


def _train_all(
    words: Sequence[str], folder: Path, record: dict[str, Any], settings: Sequence[Planned], seeds: Sequence[int]
) -> dict[Setting, float]:
    """Train what is missing, from shallow to deep prefixes; the mean evaluation loss of each setting."""
    order = [(each, seed) for each in sorted(settings, key=lambda each: each.depth) for seed in seeds]
    losses: dict[Setting, list[float]] = {}
    for number, (each, seed) in enumerate(order, 1):
        point = find_or_train(words, folder, record, each, seed)
        losses.setdefault(each.setting, []).append(point["loss"])
        told = f"accuracy {point['accuracy']:.2f}  loss {point['loss']:.4f}"
        tell(f"{number:>3} of {len(order)}  {each.setting.name}  seed {seed}  {told}")
    return {setting: float(np.mean(values)) for setting, values in losses.items()}


def _majority(folder: Path, planned: Planned, seed: int) -> float:
    """Accuracy, in percent, of always answering the most frequent label of the pairs that all settings answer."""
    return 100 * majority_baseline(answers_of(folder, planned, seed)[1])


def _row(folder: Path, record: dict[str, Any], planned: Planned, seeds: Sequence[int]) -> Row:
    points = {point["seed"]: point for point in record["points"] if point["key"] == planned.key}
    answers = {seed: answers_of(folder, planned, seed) for seed in seeds}
    right = {seed: probabilities.argmax(-1) == labels for seed, (probabilities, labels) in answers.items()}
    return Row(planned.setting.name, {seed: points[seed] for seed in seeds}, right, together(list(answers.values())))


def build_parser() -> OneLineParser:
    """The parser of a sweep's own flags."""
    parser = OneLineParser(
        prog="python -m recipe.studies.sweep",
        description="Settings compared by paired seeds. Other flags are those of run_freeze.py.",
    )
    default = Comparison()
    parser.add_argument("--over", nargs="+", default=[], help="flag=value,value ...: every combination is trained")
    parser.add_argument("--depths", nargs="+", type=int, help="numbers of frozen layers; all of them by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=default.seeds)
    parser.add_argument("--tolerance", type=float, default=default.tolerance, help="points of accuracy it may cost")
    parser.add_argument(
        "--reference", choices=["first", "best"], default="first", help="what differences are told from"
    )
    parser.add_argument("--choose", help="a flag of --over whose best value is chosen by loss")
    parser.add_argument("--choose_seeds", nargs="+", type=int, help="with these; 40 and 41 by default")
    return parser


def main() -> None:
    """A sweep from the command line."""
    ours, words = build_parser().parse_known_args()
    sweep(words, Comparison(**vars(ours)))


if __name__ == "__main__":
    exit_on_error(main)
