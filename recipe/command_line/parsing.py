"""The command line: a YAML file gives defaults, flags win, and what is wrong is said in one line."""

import dataclasses
import json
import os
from argparse import Action, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from recipe.arguments import RecipeArguments
from recipe.command_line.combinations import check_combinations, check_environment, settle
from recipe.command_line.one_line_parser import OneLineParser
from recipe.command_line.ranges import check_ranges
from recipe.command_line.renamed import hint
from recipe.command_line.saved_run import saved_arguments
from recipe.command_line.schedules import check_optimization
from recipe.command_line.yaml_file import yaml_items, yaml_words
from recipe.errors import UserError
from recipe.internals import actions_of
from recipe.training_fields import REFUSED, drop_refused

GROUPS = RecipeArguments.__annotations__
# A `~` that the shell has left, as in --flag=~/x or a YAML file, is the user's folder here too.
PATHS = ["model_name_or_path", "against", "output_dir", "resume", "prefix_cache_dir"]
PATHS += ["data_dir", "train_file", "validation_file", "test_file"]
OBJECTS = ("lr_scheduler_kwargs", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs")
DASHES = "-–—−－"  # what text editors and chats make of two hyphens
_NOT_GIVEN = object()


class _Parser(OneLineParser, HfArgumentParser):
    """One flag for each field of the dataclasses."""


def build_parser() -> HfArgumentParser:
    """The parser of every flag, whose errors are UserErrors."""
    parser = _Parser(
        GROUPS.values(),
        usage="%(prog)s [RUN.yaml] [--flag value ...]",
        description="Fine-tune a BERT on sentence pairs with chosen layers frozen.",
    )
    for action in actions_of(parser):  # what is refused has its reason said, whatever its value looks like
        if action.dest in REFUSED:
            action.type, action.choices = _switch_or_word if action.nargs == "?" else None, None
            action.help = f"Refused: {REFUSED[action.dest]}."
        elif action.type is string_to_bool and action.nargs is None:  # one whose default follows from other things
            action.nargs, action.const = "?", True
    return parser


def _switch_or_word(text: str) -> bool | str:
    try:
        return string_to_bool(text)
    except ArgumentTypeError:
        return text


def parse(argv: Sequence[str]) -> RecipeArguments:
    """The arguments of a command line whose first word may name a YAML file of defaults.

    Raises:
        UserError: for an unknown or ill-formed flag, key or value, for combinations that contradict each other, and for
            what this machine or this recipe has not.
    """
    parser, words = build_parser(), list(argv)
    if words and not words[0].startswith(tuple(DASHES)):
        words = _yaml_as_words(parser, Path(words[0] or "''").expanduser()) + words[1:]
    values = _read(parser, words)
    if (values.get("do_eval") or values.get("do_predict")) and not values.get("do_train"):
        values = saved_arguments(values) | values
    check_ranges(values)  # those of a saved run among them
    settle(values)
    check_environment(values)
    arguments = _build(values)
    check_combinations(arguments)
    if arguments.training.trains:
        check_optimization(arguments.training)
    return arguments


def parse_training(argv: Sequence[str]) -> RecipeArguments:
    """`parse` of the command line that the runs of a sweep, an audit or a search are made of.

    Raises:
        UserError: it asks for more than training: what such a run is scored on is the validation split.
    """
    arguments = parse([*argv, "--do_train=true"])
    training = arguments.training
    asked = {"do_eval": training.scores, "do_predict": training.do_predict, "push_to_hub": training.push_to_hub}
    for flag, given in {**asked, "resume": training.resume != "auto"}.items():
        if given:
            raise UserError(f"--{flag}: these runs go on by themselves, scored on the validation split; leave it out")
    return arguments


def _read(parser: HfArgumentParser, words: list[str]) -> dict[str, Any]:
    """What the words give, by name.

    Raises:
        UserError: a word is unknown or ill-formed, or a value refused or out of range, whatever the others are.
    """
    switches = {flag for action in actions_of(parser) if action.nargs == "?" for flag in action.option_strings}
    for before, word in zip(["", *words], words, strict=False):
        if not word.startswith("-") and word.endswith((".yaml", ".yml")):
            raise UserError(
                f"{word}: the YAML file stands first, and there is one: run_freeze.py {word} --flag value ..."
            )
        stray = word and not word.startswith("-") and before in switches and _switch_or_word(word) == word
        if stray and Path(word).is_dir():
            raise UserError(f"{word}: no flag takes it; a model's folder stands behind --model_name_or_path")
    blank = Namespace(**{action.dest: _NOT_GIVEN for action in actions_of(parser)})
    for word in words:
        if word.startswith("--") and word.endswith("=--"):  # which argparse takes for the end of the flags
            raise UserError(f"{word[:-1].rstrip('-=')} --: a value is expected")
    parsed, rest = parser.parse_known_args(words, blank)
    if rest:
        known = {flag: action for action in actions_of(parser) for flag in action.option_strings}
        raise UserError(_unknown(rest[0], words, known))
    values = {name: value for name, value in vars(parsed).items() if value is not _NOT_GIVEN}
    for name in (*PATHS, "dataset_name"):
        if values.get(name) == "":  # a shell's variable that is not set; the default would be somebody else's
            raise UserError(f"--{name} '': it is empty; a path or name is expected, or leave it out")
        if values.get(name):
            values[name] = os.path.expanduser(values[name])
    for name in OBJECTS:
        if name in values:
            values[name] = _object(name, values[name])
    drop_refused(values, {name: parser.get_default(name) for name in REFUSED})
    check_ranges(values)
    return values


def _unknown(word: str, words: list[str], known: Mapping[str, Action]) -> str:
    """What to say of a word that is no flag's; an unknown flag's value may be a secret, so it is not repeated."""
    flag = word.split("=")[0]
    plain = "--" + flag.lstrip(DASHES)
    if word.startswith(tuple(DASHES)) or ("=" in word and plain in known):  # or without the dashes
        return f"unknown argument {flag!r}{hint(plain, known)}"
    before = words[: words.index(word)] if word in words else []
    flags = [each.split("=")[0] for each in before if each.startswith("--")]
    if not flags:
        return f"unknown word {word!r}; --flag value is expected"
    if flags[-1] in known and known[flags[-1]].nargs == "+":
        return f"{word!r} behind {flags[-1]}=..., which takes one value; several stand behind {flags[-1]} without '='"
    return (
        f"{word!r} behind {flags[-1]}, which takes one value; a pattern ('train-*.jsonl') or a name with spaces stands "
        "in quotes"
    )


def _object(name: str, text: str) -> dict[str, Any]:
    """A flag's JSON object; YAML's 1e-5 is text by now, and a number again."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"--{name} {text}: a JSON object in quotes is expected, such as '{{\"key\": 1}}'")
    return {key: _number(value) for key, value in found.items()}


def _number(value: Any) -> Any:
    for kind in (int, float) if isinstance(value, str) else ():
        try:
            return kind(value)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _yaml_as_words(parser: HfArgumentParser, path: Path) -> list[str]:
    """The file's keys as command-line words, each read alone first so that an error names its line."""
    known: dict[str, Action] = {action.dest: action for action in reversed(actions_of(parser)) if action.dest != "help"}
    words: list[str] = []
    for key, line, value in yaml_items(path):
        if key not in known:
            raise UserError(f"{path}:{line}: unknown key {key!r}{hint(key, known)}")
        try:
            found = list(yaml_words(known[key], value, key in OBJECTS or key in REFUSED))
            _read(parser, found)
        except UserError as error:
            raise UserError(f"{path}:{line}: {error}") from None
        words += found
    return words


def _build(values: dict[str, Any]) -> RecipeArguments:
    """The dataclasses, with defaults for what is not among the values."""
    parts = []
    for group in GROUPS.values():
        names = {field.name for field in dataclasses.fields(group) if field.init}
        try:
            parts.append(group(**{name: value for name, value in values.items() if name in names}))
        except (ValueError, ImportError, OSError) as error:  # TrainingArguments.__post_init__
            raise UserError(" ".join(str(error).split())) from error
    return RecipeArguments(*parts)
