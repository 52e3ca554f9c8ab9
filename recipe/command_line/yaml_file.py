"""A YAML file of arguments, as command-line words: what stands in it is taken as it is written."""

import json
from argparse import Action
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recipe.errors import UserError

SWITCHES = {"on": "true", "off": "false"}  # what YAML's own booleans are, besides yes, no, true and false

COMMAS = ("text_column_names", "column_names", "freeze_layers")  # whose one value has commas in it


class _TextLoader(yaml.SafeLoader):
    """Reads `off`, `no`, 2e-5 and 010 as they are written, for argparse to convert; YAML makes booleans of two."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as the base class has it)
        first: [(tag, pattern) for tag, pattern in rules if tag.endswith((":null", ":merge"))]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def yaml_items(path: Path) -> list[tuple[str, int, Any]]:
    """Key, line and value of each entry; values are text, lists or objects of text, or None.

    Raises:
        UserError: it cannot be read, or is no YAML of such entries.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        root = yaml.compose(text, Loader=_TextLoader)
        values = yaml.load(text, Loader=_TextLoader)
    except OSError as error:
        model = "; a model's folder stands behind --model_name_or_path" * path.is_dir()
        raise UserError(f"{path}: {error.strerror}; the first argument is a YAML file or a --flag{model}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; a YAML file of 'flag: value' lines is expected") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        quotes = "; a value that begins with * stands in quotes" if "alias" in str(error) else ""
        raise UserError(f"{path}:{mark.line + 1 if mark else 1}: not YAML: {problem}{quotes}") from error
    except RecursionError:
        raise UserError(f"{path}:1: not YAML: nested too deep") from None
    except (ValueError, TypeError, AttributeError) as error:  # of a tag that its value does not fit, such as !!float x
        raise UserError(f"{path}:1: not YAML: {error}") from None
    if root is None or values is None:  # nothing but comments, or null
        return []
    if not isinstance(values, dict):
        raise UserError(f"{path}:1: 'flag: value' lines are expected, not a {type(values).__name__}")
    lines: dict[str, int] = {}
    for key, _ in root.value:
        if lines.setdefault(str(key.value), key.start_mark.line + 1) != key.start_mark.line + 1:
            raise UserError(
                f"{path}:{key.start_mark.line + 1}: {key.value!r} stands in line {lines[key.value]} already"
            )
    return [(str(key), lines.get(str(key), 1), value) for key, value in values.items()]


def yaml_words(action: Action, value: Any, takes_object: bool) -> Sequence[str]:
    """The words that give a flag such a value.

    Args:
        takes_object: whether the flag takes a JSON object.

    Raises:
        UserError: it is a list or an object where the flag takes one value.
    """
    flag = f"--{action.dest}"
    if value is None:
        return []
    if isinstance(value, list):
        if not all(isinstance(each, str) for each in value):
            raise UserError(f"{flag}: a list of words is expected")
        if action.nargs != "+" and len(value) != 1:
            commas = f"; {','.join(value)} is one" if action.dest in COMMAS else ""
            raise UserError(f"{flag}: one value is expected, not a list of {len(value)}{commas}")
        return [flag, *value] if action.nargs == "+" else [f"{flag}={value[0]}"]
    if isinstance(value, dict):
        if not takes_object or not all(isinstance(each, (str, type(None))) for each in (*value, *value.values())):
            raise UserError(f"{flag}: {'single values' if takes_object else 'one value'} expected, not an object")
        return [f"{flag}={json.dumps(value, ensure_ascii=False)}"]
    value = str(value)  # what a tag such as !!int has made of it
    if action.nargs == "+":
        return [flag, value]
    if action.nargs == "?":  # true or false
        value = SWITCHES.get(value.lower(), value)
    elif action.choices is not None and value.lower() in action.choices:
        value = value.lower()
    return [f"{flag}={value}"]
