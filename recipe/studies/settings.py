"""The settings that a sweep compares: every combination of the values that its flags are given."""

import csv
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from recipe.errors import UserError

# What a sweep sets itself, or what would make its runs something else than trainings.
OWN = {"seed": "--seeds", "output_dir": "--output_dir", "data_seed": "--seeds"}
NOT_TRAINING = {"do_train", "do_eval", "do_predict", "resume", "against", "push_to_hub", "model_card", "config"}
# One of several items in one word, as make hands them on: blanks part it from a flag= that is not in double quotes.
ITEM = re.compile(r"""(?:"[^"]*"|\S|\s(?!\s*(?:--)?\w+=))+""")


class Setting(NamedTuple):
    """One combination: flags with the values that they are given, in the order in which they were named."""

    values: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """As it is typed: freeze_layers=0-7 learning_rate=1e-4."""
        return " ".join(f"{flag}={value}" for flag, value in self.values) or "as given"

    @property
    def words(self) -> list[str]:
        """As a command line of run_freeze.py has it."""
        return [f"--{flag}={value}" for flag, value in self.values]


def parse_over(items: Sequence[str]) -> list[Setting]:
    """Every combination of `flag=value,value` items, the first flag's values varying slowest.

    A value that has commas is put in double quotes: 'freeze_layers="0-5,8",0-9'. Blanks and line breaks around values
    are not theirs.

    Raises:
        UserError: an item is not of that form, or names a flag that a sweep sets itself, or a flag or value twice.
    """
    axes: dict[str, list[str]] = {}
    for item in (re.sub(r"[\r\n]+", " ", part).strip() for word in items for part in ITEM.findall(word) or [word]):
        flag, equals, text = item.removeprefix("--").partition("=")
        if not equals or not re.fullmatch(r"\w+", flag):
            raise UserError(f"--over {item}: flag=value,value is expected, as in learning_rate=1e-4,3e-4")
        if flag in OWN:
            raise UserError(f"--over {item}: {OWN[flag]} sets it")
        if flag in NOT_TRAINING:
            raise UserError(f"--over {item}: a sweep trains with each value; a flag that changes training is expected")
        values = _values(item, text)
        if flag in axes or not values or "" in values or len(set(values)) < len(values):
            raise UserError(f"--over {item}: each flag once, with different values separated by commas, is expected")
        axes[flag] = values
    return [Setting(values) for values in itertools.product(*([(flag, v) for v in axes[flag]] for flag in axes))]


def _values(item: str, text: str) -> list[str]:
    closed = re.sub(r'("(?:[^"]|"")*")\s+(?=,|$)', r"\1", text.strip())  # behind quotes csv takes a comma alone
    try:
        values = next(csv.reader([closed], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        form = 'values separated by commas, as in freeze_layers="0-5,8",0-9, are expected'
        raise UserError(f"--over {item}: {form} ({error})") from None
    return [value.strip() for value in values]


def layers_to_freeze(depth: int) -> str:
    """--freeze_layers for a number of layers frozen from 0 upward."""
    return {0: "none", 1: "0"}.get(depth, f"0-{depth - 1}")


def over_depths(depths: Sequence[int] | None, layers: int) -> str:
    """`--depths` as an item of `--over`, from shallow to deep; all that a model of so many layers has where None.

    Raises:
        UserError: the model has no such depth.
    """
    chosen = sorted(set(range(layers + 1) if depths is None else depths))
    if chosen[0] < 0 or chosen[-1] > layers:
        raise UserError(
            f"--depths {' '.join(map(str, chosen))}: the model has {layers} layers; 0 to {layers} is expected"
        )
    return "freeze_layers=" + ",".join(map(layers_to_freeze, chosen))


def groups(settings: Sequence[Setting], flag: str) -> list[list[Setting]]:
    """The settings parted into those that differ in `flag` alone.

    Raises:
        UserError: none has that flag.
    """
    if not any(flag == each for setting in settings for each, _ in setting.values):
        raise UserError(f"--choose {flag}: --over does not vary it; one of its flags is expected")
    parted: dict[tuple[tuple[str, str], ...], list[Setting]] = {}
    for setting in settings:
        others = tuple(pair for pair in setting.values if pair[0] != flag)
        parted.setdefault(others, []).append(setting)
    return list(parted.values())
