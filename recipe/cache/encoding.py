"""The encoding pass: the frozen prefix over pairs that a store has not, in batches of one length and a fixed shape."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import TrainingArguments

from recipe.batches.tokens import Tokens
from recipe.cache.appending import NotFinite, Writer
from recipe.cache.cached_split import PrefixCache
from recipe.cache.key import CacheKey, batch_pairs
from recipe.cache.store import intact, open_store
from recipe.errors import RunError
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.progress import Progress
from recipe.system.distributed import Share


class Encoding(NamedTuple):
    """Pairs for the model's frozen prefix to encode, into the store of `key`."""

    model: BertForPairwiseCLS
    tokens: Tokens
    hashes: np.ndarray  # of the tokens' pairs
    key: CacheKey
    directory: Path
    source: str  # for messages

    @property
    def rows(self) -> Tensor:
        """How many rows each pair has, (pairs,): one a token, or [CLS] alone where the last layer is in the prefix."""
        lengths = self.tokens.lengths
        return torch.ones_like(lengths) if self.key.depth == self.key.layers.num_hidden_layers else lengths


class Base(NamedTuple):
    """What pairs' states are computed from: those of a shallower prefix; None and 0 for the tokens."""

    cache: PrefixCache | None = None
    depth: int = 0


def equal_length_batches(lengths: Tensor, tokens: tuple[int, int]) -> Iterator[Tensor]:
    """Indices of pairs of one length, at most as many as `batch_pairs` says, the longest first: nothing to pad."""
    order = torch.argsort(lengths, descending=True, stable=True)
    _, counts = torch.unique_consecutive(lengths[order], return_counts=True)
    for same in order.split(counts.tolist()):
        yield from same.split(batch_pairs(int(lengths[same[0]]), tokens))


def encode(job: Encoding, missing: Tensor, args: TrainingArguments, share: Share) -> None:
    """Compute and append this process's share of the missing pairs' states.

    It goes on from the deepest shallower store that has a pair, where that gives the same bytes.

    Args:
        missing: indices of the pairs, each once.
        share: every `ranks`-th batch from `rank` on is this process's.

    Raises:
        OSError: the disk is full or cannot be written; what was committed by then stays.
        RunError: a state is not finite.
    """
    batches = []
    for base, pairs in _parts(job, missing):
        lengths = job.tokens.lengths[pairs]
        batches += [(base, pairs[each]) for each in equal_length_batches(lengths, job.key.batch_tokens)]
    mine = batches[share.rank :: share.ranks]
    total = sum(int(job.tokens.lengths[batch].sum()) for _, batch in mine)
    store = open_store(job.directory, job.key)
    if store is None:
        raise OSError(f"{job.directory / job.key.name} is gone")
    run, computed = prefix_runner(job, args.device), getattr(torch, job.key.compute_dtype)
    handed_on = getattr(torch, job.key.dtype) if _may_extend(job.key) else computed
    writer = Writer(store, job.hashes, job.rows.numpy(), getattr(torch, job.key.dtype), share.ranks)
    with Progress(args, total, f"encoding {job.source}", "token") as progress, torch.inference_mode():
        try:
            with writer:
                for base, batch in mine:
                    writer.put(batch, run(base, batch, handed_on)[: len(batch)])
                    progress.advance(int(job.tokens.lengths[batch].sum()))
        except NotFinite as bad:
            raise RunError(_why_not_finite(job, run(Base(), bad.pairs, computed))) from None


def _parts(job: Encoding, missing: Tensor) -> Iterator[tuple[Base, Tensor]]:
    """The missing pairs by what there is to go on from, the deepest first."""
    for depth in range(job.key.depth - 1, 0, -1) if _may_extend(job.key) else ():
        store = open_store(job.directory, job.key.at_depth(depth))
        if store is not None and len(missing):
            store = intact(store)
            starts = store.find(job.hashes)
            there = starts[missing] >= 0
            if store.states is not None and bool(there.any()):
                cache = PrefixCache(store.states, starts, job.tokens.lengths, held=store.held)
                yield Base(cache, depth), missing[there]
                missing = missing[~there]
    yield Base(), missing


def _may_extend(key: CacheKey) -> bool:
    """Whether a layer can be handed what a store holds, and give the bytes of one pass.

    float32 states are computed to more digits than 16 bits hold; rounding them at each layer, as a pass that can be
    gone on with has to, would make the error of the stored states three times as large.
    """
    return key.dtype == "float32" or key.compute_dtype != "float32"


def _why_not_finite(job: Encoding, states: Tensor) -> str:
    """Why there is a state that is NaN or infinite; `states` are those of its batch as they were computed."""
    if bool(states.isfinite().all()):
        return f"--prefix_cache_dtype {job.key.dtype}: a state does not fit into it; use bfloat16 or float32"
    bad = [name for name, value in job.model.named_parameters() if not bool(value.isfinite().all())]
    if bad:
        return f"--model_name_or_path: NaN or infinity in {bad[0]}; the frozen prefix gives no finite states"
    return (
        f"the frozen prefix overflows {job.key.compute_dtype}, in which it is computed: a weight of "
        "--model_name_or_path is far too large"
    )


def prefix_runner(job: Encoding, device: torch.device) -> Callable[[Base, Tensor, torch.dtype], Tensor]:
    """A function: what to go on from, indices of pairs of one length, what type a layer hands on -> their states.

    The states (batch, tokens, hidden) are on `device`; a batch that is not full is filled up with copies of its last
    pair, whose states the caller drops. Handing on what a store would hold gives the same bytes in one pass or several.
    """
    model, tokens, dtype = job.model, job.tokens, getattr(torch, job.key.compute_dtype)
    layers = model.bert.encoder.layer[: job.key.depth]
    # a copy only where the type differs: in float32 the weights stay mapped from the checkpoint's file
    if dtype != model.dtype:
        layers = copy.deepcopy(layers).to(dtype)
    layers, embeddings = layers.to(device).eval(), model.bert.embeddings.to(device).eval()

    def run(base: Base, batch: Tensor, handed_on: torch.dtype) -> Tensor:
        """The states of pairs of one length."""
        length = int(tokens.lengths[batch[0]])
        full = torch.cat([batch, batch[-1:].expand(batch_pairs(length, job.key.batch_tokens) - len(batch))])
        if base.cache is not None:
            states = base.cache.gather(full.tolist())[0].to(device)
        else:
            places = tokens.offsets[full][:, None] + torch.arange(length)
            ids, types = tokens.input_ids[places].to(device), tokens.token_type_ids[places].long().to(device)
            states = embeddings(input_ids=ids, token_type_ids=types)
        for layer in layers[base.depth :]:
            states = layer(states.to(dtype), None).to(handed_on)
        return states

    return run
