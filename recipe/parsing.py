"""The command line: a YAML file gives defaults, flags win, and what is wrong is said in one line."""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from recipe.arguments import RecipeArguments
from recipe.errors import UserError


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(re.sub(r"^argument (--\w+)/--[\w-]+", r"\1", message))


def build_parser() -> HfArgumentParser:
    """The parser of every flag, whose errors are UserErrors."""
    return _Parser(
        RecipeArguments.__annotations__.values(),
        usage="%(prog)s [RUN.yaml] [--flag value ...]",
        description="Fine-tune a BERT on sentence pairs with chosen layers frozen.",
        allow_abbrev=False,
    )


def parse(argv: Sequence[str]) -> RecipeArguments:
    """The arguments of a command line whose first word may name a YAML file of defaults.

    Raises:
        UserError: for an unknown or ill-formed flag, key or value, and for combinations that the Trainer refuses.
    """
    parser, tokens = build_parser(), list(argv)
    if tokens and not tokens[0].startswith("-"):
        tokens = _yaml_tokens(parser, Path(tokens[0])) + tokens[1:]
    arguments = _parse_tokens(parser, tokens)
    if arguments.training.only_evaluates or arguments.training.only_predicts:
        arguments = _parse_tokens(parser, _saved_tokens(arguments) + tokens)
    _check(arguments)
    return arguments


def _parse_tokens(parser: HfArgumentParser, tokens: list[str]) -> RecipeArguments:
    try:
        *parsed, rest = parser.parse_args_into_dataclasses(
            tokens, return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, ImportError) as error:  # TrainingArguments.__post_init__
        raise UserError(" ".join(str(error).split())) from error
    if rest:
        raise UserError(f"unknown argument {rest[0]!r}{_nearest(rest[0].split('=')[0], parser._option_string_actions)}")
    return RecipeArguments(*parsed)


def _saved_tokens(arguments: RecipeArguments) -> list[str]:
    """The model to evaluate, by default the newest run, with the data arguments it was trained with as defaults."""
    name = arguments.model.model_name_or_path
    if name is None:
        runs = sorted(Path("outputs").glob("*/run.json"), key=lambda path: path.stat().st_mtime)
        if not runs:
            flag = "--do_eval" if arguments.training.only_evaluates else "--do_predict"
            raise UserError(f"{flag}: no finished run in outputs/; make one first: make demo")
        name = str(runs[-1].parent)
    words = [f"--model_name_or_path={name}"]
    try:
        saved = json.loads((Path(name) / "run.json").read_text(encoding="utf-8"))["arguments"]["data"]
    except (OSError, ValueError, KeyError):
        saved = {}
    if Path(name).is_dir():
        words.append(f"--output_dir={name}")
    # files that are named replace all of those that the run was trained on
    files = ("data_dir", "train_file", "validation_file", "test_file")
    if any(getattr(arguments.data, key) for key in files):
        saved = {key: value for key, value in saved.items() if key not in files}
    return words + [word for key, value in saved.items() for word in _yaml_words(key, value)]


def _nearest(name: str, known: Any) -> str:
    match = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _yaml_tokens(parser: HfArgumentParser, path: Path) -> list[str]:
    """The file's keys as command-line words, so that argparse converts them (PyYAML reads 2e-5 as a string)."""
    known = {action.dest for action in parser._actions} - {"help"}
    tokens: list[str] = []
    for key, line, value in _yaml_items(path):
        if key not in known:
            raise UserError(f"{path}:{line}: unknown key {key!r}{_nearest(key, known)}")
        words = _yaml_words(key, value)
        try:
            parser.parse_known_args(words)
        except UserError as error:
            raise UserError(f"{path}:{line}: {error}") from None
        tokens += words
    return tokens


def _yaml_items(path: Path) -> list[tuple[str, int, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text) or {}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the first argument is a YAML file or a --flag") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; a YAML file of 'flag: value' lines is expected") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            f"{path}:{mark.line + 1 if mark else 1}: not YAML: {getattr(error, 'problem', error)}"
        ) from error
    if not isinstance(values, dict):
        raise UserError(f"{path}:1: 'flag: value' lines are expected, not a {type(values).__name__}")
    lines = {key.value: key.start_mark.line + 1 for key, _ in root.value} if root else {}
    return [(str(key), lines.get(str(key), 1), value) for key, value in values.items()]


def _yaml_words(key: str, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={json.dumps(value) if isinstance(value, (dict, bool)) else value}"]


def _check(arguments: RecipeArguments) -> None:
    model, data, training = arguments.model, arguments.data, arguments.training
    if model.dropout is not None and not 0 <= model.dropout < 1:
        raise UserError(f"--dropout {model.dropout}: a number from 0 to below 1 is expected")
    for flag, value, least in [
        ("max_length", data.max_length, 8),
        ("shuffle_buffer_size", data.shuffle_buffer_size, 1),
        ("max_train_samples", data.max_train_samples, 1),
        ("max_eval_samples", data.max_eval_samples, 1),
        ("per_device_train_batch_size", training.per_device_train_batch_size, 1),
        ("per_device_eval_batch_size", training.per_device_eval_batch_size, 1),
        ("gradient_accumulation_steps", training.gradient_accumulation_steps, 1),
    ]:
        if value is not None and value < least:
            raise UserError(f"--{flag} {value}: a whole number of at least {least} is expected")
    if training.num_train_epochs <= 0:
        raise UserError(f"--num_train_epochs {training.num_train_epochs:g}: a number above 0 is expected")
    if data.label_names is not None and len(set(data.label_names)) < max(2, len(data.label_names)):
        raise UserError(f"--label_names {' '.join(data.label_names)}: at least two different names are expected")
