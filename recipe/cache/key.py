"""What a prefix cache is found by: all that determines the prefix's outputs."""

import hashlib
import json
import os
from importlib.metadata import version
from typing import NamedTuple

import torch
from torch import nn
from transformers import TrainingArguments

from recipe.batches.tokens import Tokens
from recipe.internals import attention_of
from recipe.model.modeling import BertForPairwiseCLS
from recipe.system.arithmetic import ENVIRONMENT, describe_arithmetic

COMPUTED_WITH = ("device", "processor instructions", "attention kernels", "oneDNN", "float32 matrix products")


class LayerConfig(NamedTuple):
    """What of a model's configuration a layer's output depends on."""

    hidden_act: str
    hidden_size: int
    layer_norm_eps: float
    num_attention_heads: int
    num_hidden_layers: int
    attn_implementation: str


class CacheKey(NamedTuple):
    """All that determines a prefix's outputs: the weights of each module, the token ids, and how they are computed."""

    modules: tuple[str, ...]  # sha256 of the embeddings and of each layer of the prefix
    tokens: str  # sha256 of ids, types and lengths: stands for texts, tokenizer and max_length
    layers: LayerConfig
    dtype: str
    compute_dtype: str
    versions: str
    arithmetic: str  # what the processor and the libraries' settings are: others round otherwise
    owner: int  # caches are readable by their owner only, so that in a shared folder each user has his own

    @property
    def depth(self) -> int:
        """Layers in the prefix."""
        return len(self.modules) - 1

    @property
    def name(self) -> str:
        """The folder's name."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()[:32]

    def at_depth(self, depth: int) -> "CacheKey":
        """The key of a shallower prefix of the same model over the same tokens."""
        return self._replace(modules=self.modules[: depth + 1])


def make_key(
    model: BertForPairwiseCLS, tokens: Tokens, dtype: str, compute_dtype: str, arithmetic: str = ""
) -> CacheKey:
    """The key of the model's frozen prefix over `tokens`, computed with what `arithmetic_of` tells."""
    config = model.config
    read = {name: getattr(config, name) for name in LayerConfig._fields[:-1]}
    modules = [model.bert.embeddings, *model.bert.encoder.layer[: model.prefix_depth]]
    return CacheKey(
        modules=tuple(_weights_sha256(module) for module in modules),
        tokens=tokens.sha256(),
        layers=LayerConfig(**read, attn_implementation=attention_of(config)),
        dtype=dtype,
        compute_dtype=compute_dtype,
        versions=f"torch {version('torch')}, transformers {version('transformers')}",
        arithmetic=arithmetic,
        owner=os.getuid() if hasattr(os, "getuid") else 0,
    )


def arithmetic_of(args: TrainingArguments) -> str:
    """What is no flag and changes the last bits of a state; the number of threads was measured not to."""
    found = describe_arithmetic(args)
    return json.dumps({name: found[name] for name in (*COMPUTED_WITH, *ENVIRONMENT) if name in found})


def _weights_sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
