"""What a checkpoint holds of the model: the trainable weights, not the frozen ones."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from recipe.arguments import RunError

WEIGHTS = "trainable.safetensors"  # no name that from_pretrained would take for a whole model


def save_trainable(model: nn.Module, folder: Path) -> None:
    """Write the model's trainable weights into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().contiguous() for name, value in model.named_parameters() if value.requires_grad}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def load_trainable(model: nn.Module, folder: Path) -> None:
    """Put a checkpoint's weights into the model that it was made from.

    Raises:
        RunError: the checkpoint is of a run that trained other weights.
    """
    weights = load_file(folder / WEIGHTS)
    ours = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if weights.keys() != ours.keys():
        different = sorted(weights.keys() ^ ours.keys())
        raise RunError(
            f"{folder}: made by a run that froze something else: {different[0]} (+{len(different) - 1} more)"
        )
    with torch.no_grad():
        for name, value in ours.items():
            value.copy_(weights[name])
