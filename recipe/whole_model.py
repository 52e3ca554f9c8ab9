"""A whole model out of a checkpoint, which holds the trained weights only.

python -m recipe.whole_model outputs/freeze/checkpoint-1073 FOLDER
"""

import argparse
from pathlib import Path

from recipe.arguments import ModelArguments
from recipe.base_model import name_labels, open_base
from recipe.errors import Damaged, UserError, exit_on_error
from recipe.loading import load_model, load_tokenizer
from recipe.manifest import Checkpoint, open_checkpoint
from recipe.modeling import BertForPairwiseCLS
from recipe.weights import fingerprint, load_trainable


def rebuild(checkpoint: Checkpoint, folder: Path, model_name_or_path: str | None = None) -> BertForPairwiseCLS:
    """The model as it was at that step, written to `folder`, which must not hold one.

    Args:
        model_name_or_path: where the weights that the run began with are now; by default where they were then.

    Raises:
        UserError: those weights are others, or are not there.
    """
    if (folder / "config.json").exists():
        raise UserError(f"{folder}: there is a model in it; an empty folder, or a new one, is expected")
    manifest = checkpoint.manifest
    given = {name.removeprefix("model."): value for name, value in manifest["identity"]["arguments"].items()}
    args = ModelArguments(
        model_name_or_path or manifest["base_model"], given["dtype"], given["attn_implementation"], given["dropout"]
    )
    base = open_base(args)
    name_labels(base, manifest["identity"]["labels"])
    base.config.frozen_prefix_depth = manifest["frozen_prefix_depth"]
    model, tokenizer = load_model(base), load_tokenizer(base)
    trained = set(manifest["trainable"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    if fingerprint(model, trained=False) != manifest["identity"]["weights"]["frozen"]:
        raise UserError(f"{args.model_name_or_path}: not the weights that {checkpoint.folder} was trained on top of")
    load_trainable(model, checkpoint.folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def main() -> None:
    """Rebuild a model from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipe.whole_model", description="Make a whole model of a checkpoint."
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


if __name__ == "__main__":
    exit_on_error(main)
