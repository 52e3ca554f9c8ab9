"""What a saved model was trained on, from its run.json, as defaults to evaluate it with.

The file may come from elsewhere: only the data's arguments, and in what types it evaluated, are taken from it, each of
its own type.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch

from recipe.arguments import DataArguments
from recipe.errors import Damaged, Missing, UserError
from recipe.file_names import RUN
from recipe.model.base_model import PARTS
from recipe.system.arithmetic import multiplies_in_bfloat16
from recipe.system.hub import fetch, has_copy, in_cache, is_repository
from recipe.system.json_files import read_json

FILES = ("data_dir", "train_file", "validation_file", "test_file")
LIMITS = ("max_train_samples", "max_eval_samples")  # of those files


def saved_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """The model to evaluate, by default the newest run, and the data arguments it was trained with.

    Args:
        values: what was given, by name.

    Raises:
        UserError: there is no run, or its record is damaged.
    """
    name = values.get("model_name_or_path")
    if name is None:
        runs = sorted(Path("outputs").glob(f"*/{RUN}"), key=lambda path: path.stat().st_mtime)
        if not runs:
            flag = "--do_eval" if values.get("do_eval") else "--do_predict"
            raise UserError(f"{flag}: no finished run in outputs/; make one first: make demo")
        name = str(runs[-1].parent)
    found: dict[str, Any] = {"model_name_or_path": name}
    if not Path(name).is_dir() and not is_repository(name):
        return found
    path = _fetched("--model_name_or_path", name)
    saved = _data_arguments(path)
    found |= _types(path)
    if any(values.get(key) for key in FILES):  # files that are named replace all of those that the run was trained on
        saved = {key: value for key, value in saved.items() if key not in (*FILES, *LIMITS)}
    own = {"output_dir": name} if Path(name).is_dir() else {}
    return {**found, **own, **saved}


def record_of(name: str) -> Path:
    """Where a model's run.json is, if it is there: in its folder, or of one from the Hub in the cache."""
    return (None if Path(name).is_dir() else in_cache(name, RUN)) or Path(name) / RUN


def _fetched(flag: str, name: str) -> Path:
    """`record_of`, asked of the Hub for the newest."""
    if Path(name).is_dir() or not is_repository(name):
        return Path(name) / RUN
    return fetch(flag, name, RUN, cached=has_copy(name, PARTS)) or Path(name) / RUN


def describe_unrecorded(name: str) -> list[str]:
    """A line where no run.json says how a model's run read its data; none where one does."""
    told = "how its run read its data, and where they are, is not known; flags say so, or their defaults"
    return [] if record_of(name).is_file() else [f"{name}: no {RUN} with it: {told}"]


def max_length_of(name: str) -> int | None:
    """How many tokens the run that left a model, which --against names, read of a pair; None where that is not known.

    Raises:
        UserError: it is on the Hub, which is out of reach.
    """
    try:
        record = read_json(_fetched("--against", name), {"arguments": {"data": {"max_length": int}}})
    except Damaged:
        return None
    found: int = record["arguments"]["data"]["max_length"]
    return found


def describe_other_types(name: str, bf16: bool) -> list[str]:
    """A line where a model is scored in other types than its run scored it in; none where that is not known."""
    before = _recorded_types(record_of(name)).get("bf16", bf16)
    types = ["bfloat16" if each else "float32" for each in (bf16, before)]
    return [] if before == bf16 else [f"{name} is scored in {types[0]}; its run scored it in {types[1]} (--bf16)"]


def _data_arguments(path: Path) -> dict[str, Any]:
    shapes = {name: _shape(kind) for name, kind in get_type_hints(DataArguments).items()}
    try:
        record = read_json(path, {"arguments": {"data": {f"{name}?": shape for name, shape in shapes.items()}}})
    except Missing:
        return {}
    except Damaged as damage:
        raise UserError(f"{damage}; move it away, and name the data: --data_dir, --label_names") from None
    data = record["arguments"]["data"]
    for field in dataclasses.fields(DataArguments):
        choices, value = field.metadata.get("choices"), data.get(field.name)
        if choices and value is not None and value not in choices:
            raise UserError(
                f"{path}: arguments.data.{field.name} is {value!r}; one of {', '.join(choices)} is expected"
            )
    return {name: data[name] for name in shapes if data.get(name) is not None}


def _types(path: Path) -> dict[str, Any]:
    """In what types and batches the run evaluated, so that it is scored as it scored itself; nothing where unknown.

    A type that this machine does not compute in is left to its default.
    """
    types = _recorded_types(path)
    if types.get("bf16") and not (torch.accelerator.is_available() or multiplies_in_bfloat16("cpu")):
        del types["bf16"]
    return types


def _recorded_types(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path, {"arguments": {"training": {"bf16?": bool, "per_device_eval_batch_size?": int}}})
    except Damaged:
        return {}
    training = record["arguments"]["training"]
    return {name: training[name] for name in ("bf16", "per_device_eval_batch_size") if name in training}


def _shape(kind: Any) -> Any:
    """A type hint as `json_files` writes it."""
    if kind == list[str]:
        return [str]
    return tuple(_shape(each) for each in get_args(kind)) if get_args(kind) else None if kind is type(None) else kind
