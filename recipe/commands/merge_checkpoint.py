"""A whole model out of a checkpoint, which holds the trained weights only.

python -m recipe.commands.merge_checkpoint outputs/freeze/checkpoint-1073 FOLDER
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from recipe.arguments import DataArguments, ModelArguments
from recipe.checkpoints.identity import EVALUATED_WITH
from recipe.checkpoints.manifest import Checkpoint, open_checkpoint
from recipe.command_line.one_line_parser import OneLineParser
from recipe.data.splits import unit_of
from recipe.errors import Damaged, RunError, UserError
from recipe.file_names import MANIFEST, RUN
from recipe.model.base_model import name_labels, open_base
from recipe.model.loading import add_tails, load_model
from recipe.model.modeling import BertForPairwiseCLS
from recipe.model.tokenizer import load_tokenizer
from recipe.model.weights import fingerprint, load_trainable
from recipe.process.exiting import exit_on_error
from recipe.process.text import one_line
from recipe.system.files import whole_folder, write_json
from recipe.system.json_files import misfit

RECORDED = {  # what a run's checkpoint tells of its model
    "identity": {
        "arguments": {"model.dtype": str, "model.attn_implementation": str, "model.dropout": (float, None)},
        "labels": [str],
        "weights": {"frozen": str},
    },
    "evaluated_with?": EVALUATED_WITH,
    "base_model": str,
    "frozen_prefix_depth": (int, None),
}


def rebuild(checkpoint: Checkpoint, folder: Path, model_name_or_path: str | None = None) -> BertForPairwiseCLS:
    """The model as it was at that step, written to `folder`, which is empty or new: whole, or not at all.

    Args:
        model_name_or_path: where the weights that the run began with are now; by default where they were then.

    Raises:
        UserError: those weights are others, or are not there, or something is in `folder`.
        RunError: the disk is full. Nothing is written then.
    """
    _check_empty(folder)
    manifest = checkpoint.manifest
    problem = misfit(manifest, RECORDED)
    if problem:
        raise UserError(f"{checkpoint.folder / MANIFEST}: {problem}; a checkpoint-N folder of a run is expected")
    given = {name.removeprefix("model."): value for name, value in manifest["identity"]["arguments"].items()}
    args = ModelArguments(
        model_name_or_path=model_name_or_path or manifest["base_model"],
        **{name: given[name] for name in ("dtype", "attn_implementation", "dropout")},
    )
    base = open_base(args)
    record = _record(manifest)
    columns = record["arguments"]["data"].get("text_column_names", DataArguments.text_column_names)
    name_labels(base, manifest["identity"]["labels"], unit_of(DataArguments(text_column_names=columns)))
    base.config.frozen_prefix_depth = manifest["frozen_prefix_depth"]
    model, tokenizer = load_model(base), load_tokenizer(base, given.get("data.max_length"))
    model.prefix_depth = manifest["frozen_prefix_depth"]
    add_tails(model, given.get("num_tails", 1))
    trained = set(manifest["trainable"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    if fingerprint(model, trained=False) != manifest["identity"]["weights"]["frozen"]:
        raise UserError(f"{args.model_name_or_path}: not the weights that {checkpoint.folder} was trained on top of")
    load_trainable(model, checkpoint.folder)
    try:
        with whole_folder(folder.resolve()) as staging:  # a link to an empty folder stays one
            model.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
            write_json(staging / RUN, record)
    except (OSError, SafetensorError) as error:
        _check_empty(folder)  # another process was first
        raise RunError(f"{folder}: the model cannot be written: {one_line(error)}; nothing of it is there") from error
    return model


def _record(manifest: dict[str, Any]) -> dict[str, Any]:
    """What evaluation takes from a run.json; of results, of which a checkpoint has none of its own, nothing."""
    identity, besides = manifest["identity"], manifest.get("evaluated_with", {"data": {}, "training": {}})
    given = identity["arguments"]
    data = {name.removeprefix("data."): value for name, value in given.items() if name.startswith("data.")}
    data |= besides["data"] | {"label_names": identity["labels"] if len(identity["labels"]) > 1 else None}
    training = besides["training"] | {"bf16": bool(given.get("training.bf16"))}
    return {"arguments": {"data": data, "training": training}, "prefix": manifest.get("prefix")}


def _check_empty(folder: Path) -> None:
    try:
        found = sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; an empty folder, or a new one, is expected") from error
    if found:
        what = (
            "there is a model in it" if {"config.json", "model.safetensors"} <= set(found) else f"{found[0]} is in it"
        )
        raise UserError(f"{folder}: {what}; an empty folder, or a new one, is expected")


def main() -> None:
    """Rebuild a model from the command line."""
    parser = OneLineParser(
        prog="python -m recipe.commands.merge_checkpoint", description="Make a whole model of a checkpoint."
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint-N folder")
    parser.add_argument("folder", type=Path, help="where the model is written")
    parser.add_argument("--model_name_or_path", help="where the weights that the run began with are now")
    args = parser.parse_args()
    try:
        checkpoint = open_checkpoint(args.checkpoint)
    except Damaged as damage:
        raise UserError(f"{damage}; a checkpoint-N folder is expected") from None
    rebuild(checkpoint, args.folder, args.model_name_or_path)
    print(f"step {checkpoint.step} of {args.checkpoint} as a whole model: {args.folder}")
    if "evaluated_with" not in checkpoint.manifest:
        told = "where its data are is not known: --do_eval takes --data_dir, --validation_file or --dataset_name"
        print(f"note: {args.checkpoint} is of an earlier release, and {told}")


if __name__ == "__main__":
    exit_on_error(main)
