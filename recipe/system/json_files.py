"""The JSON files that the recipe writes, read back: each has the shape that was written, or counts as damaged.

A shape is what a value must look like: a type; `{"key": shape}` for an object that has these keys (`"key?"`: may have)
and any others; `{str: shape}` for one of any keys; `[shape]` for a list; a tuple for one of several, None among them.
`float` takes whole numbers too and no NaN or infinity, `int` what 64 bits hold; `object` takes anything.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.errors import Damaged, Missing

DEEPEST = 50  # levels; what reads or prints a value recursively has no more than Python's stack for it
KINDS = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a whole number of 64 bits",
    float: "a finite number",
}


def read_json(path: Path, shape: Any) -> Any:
    """The content of a JSON file of that shape.

    Raises:
        Missing: there is no such file.
        Damaged: it cannot be read, is not JSON, or has another shape; one line that names it.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise Damaged(f"{path}: not a file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Missing(f"{path}: not there") from None
    except OSError as error:
        raise Damaged(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise Damaged(f"{path}: not JSON") from None
    if _deeper_than(content, DEEPEST):
        raise Damaged(f"{path}: nested more than {DEEPEST} deep")
    problem = misfit(content, shape)
    if problem:
        raise Damaged(f"{path}: {problem}")
    return content


def _deeper_than(content: Any, levels: int) -> bool:
    inner = [content]
    for _ in range(levels):
        inner = [
            value
            for each in inner
            if isinstance(each, (dict, list))
            for value in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(inner)


def misfit(content: Any, shape: Any, name: str = "") -> str:
    """Where `content` has not that shape, or an empty string."""
    if isinstance(shape, tuple):
        misfits = [misfit(content, each, name) for each in shape]
        return misfits[0] if all(misfits) else ""
    if not _is(content, shape):
        found = f"{content!r:.20}" if type(content) in (int, float) else KINDS.get(type(content), "null")
        wanted = KINDS.get(_kind(shape), "null")
        return f"{name.removeprefix('.') or 'the whole'} is {found}, where {wanted} is expected"
    if isinstance(shape, dict) and str not in shape:
        missing = [key for key in shape if not key.endswith("?") and key not in content]
        if missing:
            return f"{name}.{missing[0]} is missing".removeprefix(".")
    return next(filter(None, (misfit(*part) for part in _parts(content, shape, name))), "")


def _kind(shape: Any) -> Any:
    return type(shape) if isinstance(shape, (dict, list)) else shape


def _is(value: Any, shape: Any) -> bool:
    kind = _kind(shape)
    if kind is int:
        return type(value) is int and -(2**63) <= value < 2**63
    if kind is float:
        return type(value) in (int, float) and -1e300 < value < 1e300
    return value is None if kind is None else isinstance(value, kind)


def _parts(content: Any, shape: Any, name: str) -> Iterator[tuple[Any, Any, str]]:
    """What `content` consists of, each with its shape and name."""
    if isinstance(shape, list):
        yield from ((value, shape[0], f"{name}[{place}]") for place, value in enumerate(content))
    elif isinstance(shape, dict) and str in shape:
        yield from ((value, shape[str], f"{name}.{key!r:.40}") for key, value in content.items())
    elif isinstance(shape, dict):
        for key, each in ((key.removesuffix("?"), each) for key, each in shape.items()):
            if key in content:
                yield content[key], each, f"{name}.{key}"
