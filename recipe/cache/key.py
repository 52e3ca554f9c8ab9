"""What a prefix cache is found by: all that determines the prefix's outputs."""

import hashlib
import json
import os
from importlib.metadata import version
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import TrainingArguments

from recipe.batches.tokens import Tokens
from recipe.internals import attention_of
from recipe.model.modeling import BertForPairwiseCLS
from recipe.system.arithmetic import ENVIRONMENT, describe_arithmetic

LONG = 48  # tokens; few pairs of AFQMC have more
# Tokens in a batch of pairs with up to LONG tokens, and in one of longer pairs: so small that filling up the last batch
# of each length costs AFQMC's training split 1.3 %, so large that the matrix units run at 82 to 104 % of the rate that
# 4,096 have.
BATCH_TOKENS = {"cpu": (384, 256), "cuda": (4096, 1024)}
WIDTH = 768  # that these are meant for; a narrower model, whose arithmetic is soon over, takes more tokens at once
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
    """All that determines a pair's states besides its tokens: the weights of each module, and how they are computed."""

    modules: tuple[str, ...]  # sha256 of the embeddings and of each layer of the prefix
    layers: LayerConfig
    dtype: str
    compute_dtype: str
    versions: str
    batch_tokens: tuple[int, int]  # the shape of the batches that they are computed in
    arithmetic: str  # what the processor and the libraries' settings are: others round otherwise
    owner: int  # caches are readable by their owner only, so that in a shared folder each user has his own

    @property
    def row_bytes(self) -> int:
        """What a row takes on disk."""
        itemsize: int = getattr(torch, self.dtype).itemsize
        return self.layers.hidden_size * itemsize

    @property
    def depth(self) -> int:
        """Layers in the prefix."""
        return len(self.modules) - 1

    @property
    def name(self) -> str:
        """The folder's name."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()[:32]

    def at_depth(self, depth: int) -> "CacheKey":
        """The key of a shallower prefix of the same model."""
        return self._replace(modules=self.modules[: depth + 1])


def make_key(
    model: BertForPairwiseCLS, dtype: str, compute_dtype: str, device: torch.device, arithmetic: str = ""
) -> CacheKey:
    """The key of the model's frozen prefix, computed on `device` with what `arithmetic_of` tells."""
    config = model.config
    read = {name: getattr(config, name) for name in LayerConfig._fields[:-1]}
    modules = [model.bert.embeddings, *model.bert.encoder.layer[: model.prefix_depth]]
    return CacheKey(
        modules=tuple(_weights_sha256(module) for module in modules),
        layers=LayerConfig(**read, attn_implementation=attention_of(config)),
        dtype=dtype,
        compute_dtype=compute_dtype,
        versions=f"torch {version('torch')}, transformers {version('transformers')}",
        batch_tokens=batch_tokens(device, config.hidden_size),
        arithmetic=arithmetic,
        owner=os.getuid() if hasattr(os, "getuid") else 0,
    )


def batch_tokens(device: torch.device, width: int = WIDTH) -> tuple[int, int]:
    """BATCH_TOKENS of a device and a model's width; on an accelerator that was not measured, what any memory holds."""
    short, long = BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])
    times = max(1, WIDTH // width)
    return short * times, long * times


def batch_pairs(length: int, tokens: tuple[int, int]) -> int:
    """Pairs in a batch of the encoding pass, a function of their length alone.

    A matrix product's last bits depend on its shape, so that a pair has the same states in any company.
    """
    return max(1, (tokens[0] if length <= LONG else tokens[1]) // length)


def pair_hashes(tokens: Tokens) -> np.ndarray:
    """What each pair is found by, (pairs,): BLAKE2b of its ids and types, 16 bytes.

    It stands for texts, tokenizer, max_length and the order of the two sentences.
    """
    ids, types, ends = tokens.input_ids.numpy(), tokens.token_type_ids.numpy(), tokens.offsets.tolist()
    digests = (
        hashlib.blake2b(ids[start:end].tobytes() + types[start:end].tobytes(), digest_size=16).digest()
        for start, end in pairwise(ends)
    )
    return np.frombuffer(b"".join(digests), dtype="S16")


def arithmetic_of(args: TrainingArguments) -> str:
    """What changes the last bits of a state without being a flag; the number of threads was measured not to."""
    found = describe_arithmetic(args)
    return json.dumps({name: found[name] for name in (*COMPUTED_WITH, *ENVIRONMENT) if name in found})


def _weights_sha256(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
