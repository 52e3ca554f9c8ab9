"""The encoding pass: the frozen prefix over every pair, once, in batches that need neither padding nor a mask."""

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import TrainingArguments

from recipe.batches.tokens import Tokens
from recipe.cache.key import CacheKey
from recipe.cache.prefix_cache import (
    PrefixCache,
    finish,
    is_intact,
    make_manifest,
    open_cache,
    open_partial,
    reserve,
    rows_per_pair,
)
from recipe.errors import RunError
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.progress import Progress, say
from recipe.system.cache_folder import unfinished_folder
from recipe.system.distributed import Share, together

BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}


def batch_tokens(device: torch.device) -> int:
    """Tokens in a batch of the encoding pass: on an accelerator that was not measured, what any memory holds."""
    return BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])


def equal_length_batches(lengths: Tensor, batch_tokens: int) -> Iterator[Tensor]:
    """Indices of pairs of one length, at most `batch_tokens` tokens together, the longest first: nothing to pad."""
    order = torch.argsort(lengths, descending=True, stable=True)
    _, counts = torch.unique_consecutive(lengths[order], return_counts=True)
    for same in order.split(counts.tolist()):
        yield from same.split(max(1, batch_tokens // int(lengths[same[0]])))


def fast_dtype(device: torch.device) -> str:
    """bfloat16 where the processor multiplies matrices in it, which there measured 2.6 times as fast; else float32.

    Asked of the processor and not timed: a busy machine would time otherwise than a quiet one, and a run that was
    killed while it encoded would end in another model.
    """
    if device.type != "cpu":
        supported = getattr(getattr(torch, device.type, None), "is_bf16_supported", None)
        return "bfloat16" if supported is not None and supported() else "float32"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "float32"


class Encoding(NamedTuple):
    """What is to be encoded: the pairs of one split, by the model's frozen prefix, into the cache of `key`."""

    model: BertForPairwiseCLS
    tokens: Tokens
    key: CacheKey
    directory: Path
    source: str  # for messages


def encode(job: Encoding, args: TrainingArguments, share: Share | None) -> PrefixCache:
    """Compute and store the prefix's outputs, going on from the deepest shallower cache of the same model. Collective.

    Args:
        share: this process's part of what its machine encodes, every `ranks`-th batch from `rank` on; the machine's
            first writes the manifest. None on a machine that has the cache, which waits for the others.

    Raises:
        OSError: the disk is full or cannot be written; nothing that a later run would trust is left.
    """
    _, tokens, key, directory, source = job
    first = share is not None and share.rank == 0
    started = time.perf_counter()
    with unfinished_folder(directory, key.name, args, wanted=share is not None) as partial:
        together(args, lambda: reserve(partial, tokens, key) if first else None, OSError)
        base = None
        if share is None:
            together(args, lambda: None, OSError, RunError)
        else:
            base = _deepest_shallower(directory, key, tokens)
            states = open_partial(partial, tokens, key)
            together(args, lambda: _fill(job, states, base, share, args), OSError, RunError)
        seconds = time.perf_counter() - started
        manifest = make_manifest(tokens, key, source, seconds, base)
        together(args, lambda: finish(partial, directory, key, tokens, manifest) if first else None, OSError)
    cache = open_cache(directory, key, tokens)
    if cache is None:
        raise OSError(f"{directory / key.name} is gone right after it was written")
    rate = int(tokens.offsets[-1]) / seconds
    say(args, f"prefix cache: {source} encoded in {seconds:.0f} s in {key.compute_dtype}, {rate:,.0f} tokens a second")
    return cache


def _deepest_shallower(directory: Path, key: CacheKey, tokens: Tokens) -> PrefixCache | None:
    """What there is to go on from: the same pairs, in batches of the same composition, on the same kind of device."""
    if not _may_extend(key):
        return None
    for depth in range(key.depth - 1, 0, -1):
        cache = open_cache(directory, key.at_depth(depth), tokens)
        if cache is not None and is_intact(directory, key.at_depth(depth), cache):
            return cache
    return None


def _may_extend(key: CacheKey) -> bool:
    """Whether a layer can be handed what a cache holds, and give the bytes of one pass.

    float32 states are computed to more digits than 16 bits hold; rounding them at each layer, as a pass that can be
    gone on with has to, would make the error of the stored states three times as large.
    """
    return key.dtype == "float32" or key.compute_dtype != "float32"


def _fill(job: Encoding, states: Tensor, base: PrefixCache | None, share: Share, args: TrainingArguments) -> None:
    tokens, key = job.tokens, job.key
    run = _prefix_runner(job, base, args.device)
    batches = list(equal_length_batches(tokens.lengths, batch_tokens(args.device)))[share.rank :: share.ranks]
    offsets, computed = rows_per_pair(tokens, key), getattr(torch, key.compute_dtype)
    total = sum(int(tokens.lengths[batch].sum()) for batch in batches)
    with Progress(args, total, f"encoding {job.source}", "token") as progress, torch.inference_mode():
        for batch in batches:
            output = run(batch, states.dtype if _may_extend(key) else computed).to(states.dtype)
            rows = offsets[batch][:, None] + torch.arange(output.shape[1])
            states[rows.view(-1)] = output.reshape(-1, output.shape[-1]).cpu()
            if not bool(output.isfinite().all()):
                raise RunError(_why_not_finite(job.model, key, run(batch, computed)))
            progress.advance(int(tokens.lengths[batch].sum()))


def _why_not_finite(model: BertForPairwiseCLS, key: CacheKey, states: Tensor) -> str:
    """Why there is a state that is NaN or infinite; `states` are those of its batch as they were computed."""
    if bool(states.isfinite().all()):
        return f"--prefix_cache_dtype {key.dtype}: a state does not fit into it; use bfloat16 or float32"
    bad = [name for name, value in model.named_parameters() if not bool(value.isfinite().all())]
    if bad:
        return f"--model_name_or_path: NaN or infinity in {bad[0]}; the frozen prefix gives no finite states"
    return (
        f"the frozen prefix overflows {key.compute_dtype}, in which it is computed: a weight of --model_name_or_path "
        "is far too large"
    )


def _prefix_runner(
    job: Encoding, base: PrefixCache | None, device: torch.device
) -> Callable[[Tensor, torch.dtype], Tensor]:
    """A function: indices of pairs of one length, and the type of what a layer hands to the next -> their states.

    The states (batch, tokens, hidden) are on `device`. Handing on what a cache would hold gives the same bytes in one
    pass as in several.
    """
    model, tokens, key, *_ = job
    dtype = getattr(torch, key.compute_dtype)
    start = base.manifest["depth"] if base else 0
    layers = model.bert.encoder.layer[start : key.depth]
    # a copy only where the type differs: in float32 the weights stay mapped from the checkpoint's file
    if dtype != model.dtype:
        layers = copy.deepcopy(layers).to(dtype)
    layers, embeddings = layers.to(device).eval(), model.bert.embeddings.to(device).eval()

    def run(batch: Tensor, handed_on: torch.dtype) -> Tensor:
        """The states of pairs of one length."""
        if base is not None:
            states = base.gather(batch.tolist())[0].to(device)
        else:
            places = tokens.offsets[batch][:, None] + torch.arange(int(tokens.lengths[batch[0]]))
            ids, types = tokens.input_ids[places].to(device), tokens.token_type_ids[places].long().to(device)
            states = embeddings(input_ids=ids, token_type_ids=types)
        for layer in layers:
            states = layer(states.to(dtype), None).to(handed_on)
        return states

    return run
