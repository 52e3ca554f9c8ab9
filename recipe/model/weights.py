"""A model's weights on their way from the Hub, to disk and back: what is trained, whole even where FSDP sharded it."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from recipe.errors import Damaged, UserError
from recipe.file_names import WEIGHTS
from recipe.system.hub import download
from recipe.system.json_files import read_json

# Of published weights, in the order in which `from_pretrained` looks for them.
FORMS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def download_weights(flag: str, repo_id: str) -> None:
    """Bring a model's weights into the cache, in the first form that the Hub has, with all of their shards.

    Raises:
        UserError: there are none, or one file cannot be fetched.
    """
    found = next(filter(None, (download(flag, repo_id, name) for name in FORMS)), None)
    if found is None:
        raise UserError(f"{flag} {repo_id}: none of {', '.join(FORMS)} on the Hub, which torch reads")
    shards = read_json(found, {"weight_map": {str: str}})["weight_map"].values() if found.suffix == ".json" else ()
    for shard in sorted(set(shards)):
        if download(flag, repo_id, shard) is None:
            raise UserError(f"{flag} {repo_id}: no {shard} on the Hub, where {found.name} names it")


def whole(value: Tensor) -> Tensor:
    """A parameter's values, gathered from all ranks where FSDP has sharded it. Collective then."""
    value = value.detach()
    return value.full_tensor() if isinstance(value, DTensor) else value


def trainable_weights(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters by name, whole. Collective where they are sharded."""
    return {name: whole(value).contiguous() for name, value in model.named_parameters() if value.requires_grad}


def save_trainable(weights: dict[str, Tensor], folder: Path) -> None:
    """Write `trainable_weights` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def load_trainable(model: nn.Module, folder: Path) -> None:
    """Put a checkpoint's weights into a model that trains the same parameters, sharded or not.

    Raises:
        Damaged: it holds others, or of another shape; the model is as it was then.
    """
    weights = load_file(folder / WEIGHTS)
    ours = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if weights.keys() != ours.keys():
        raise Damaged(f"{folder / WEIGHTS}: other weights than are trained: {min(weights.keys() ^ ours.keys())}")
    for name, value in ours.items():
        if weights[name].shape != value.shape or not weights[name].is_floating_point():
            raise Damaged(f"{folder / WEIGHTS}: {name} is of another shape than the model's, or of whole numbers")
    with torch.no_grad():
        for name, value in ours.items():
            value.copy_(_placed_like(weights[name], value))


def _placed_like(weight: Tensor, value: Tensor) -> Tensor:
    if not isinstance(value, DTensor):
        return weight
    return distribute_tensor(weight.to(value.device), value.device_mesh, value.placements, src_data_rank=None)


def fingerprint(model: nn.Module, trained: bool) -> str:
    """sha256 over the names and bytes of all parameters that are trained, or of all that are frozen.

    Collective where they are sharded.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad == trained:
            digest.update(name.encode())
            digest.update(whole(parameter).cpu().contiguous().view(-1).view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()
