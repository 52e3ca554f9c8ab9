"""What only a GPU asks for: the cache in its memory, few lengths of batches, and a tail that is captured as one graph.

At batch 32 the arithmetic of a cached step is over before Python has launched it; what is left is to launch less.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from recipe.arguments import FreezeTrainingArguments
from recipe.modeling import BertForPairwiseCLS
from recipe.prefix_cache import PrefixCache
from recipe.progress import say

LENGTHS = 8  # batches are padded to a multiple of so many tokens: AFQMC's then have 17 lengths, none above 136
SHARE = 0.5  # of the free memory, which the tail's weights, gradients and moments must fit into as well
GRAPHS = 64  # lengths of batches, and those of the last and shorter batch of an epoch
STEPS = 10
BACKEND = "inductor"
COMPILED = ", tail compiled"  # of a run whose tail is


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU."""
    return torch.cuda.mem_get_info(device)[0]


def place(caches: list[PrefixCache], args: FreezeTrainingArguments) -> list[PrefixCache]:
    """The caches as the run's device wants them: padded to few lengths for a GPU or a compiled tail, else as they are.

    They go to GPU memory where there is room for them and no worker process that could not reach it; the loader's
    pinning, which is for batches in the host's memory, is switched off then.
    """
    gpu = args.device.type == "cuda"
    if not gpu and args.compile_tail != "on":
        return caches
    if gpu and not args.dataloader_num_workers:
        size = sum(cache.states.numel() * cache.states.element_size() for cache in caches)
        free = free_bytes(args.device)
        if size <= SHARE * free:
            args.dataloader_pin_memory = False
            say(args, f"prefix cache: in GPU memory, {size / 1e9:.2f} of {free / 1e9:.2f} GB that are free")
            return [cache.to(args.device, LENGTHS) for cache in caches]
        say(args, f"prefix cache: {size / 1e9:.2f} GB stay with the host, {free / 1e9:.2f} GB of GPU memory are free")
    return [PrefixCache(each.states, each.offsets, each.manifest, LENGTHS, each.held) for each in caches]


def compile_tail(
    model: BertForPairwiseCLS, cache: PrefixCache, args: FreezeTrainingArguments, before: str | None
) -> None:
    """Have training run the tail compiled, as --compile_tail says; auto: where it measures faster on a GPU.

    Each length of batch is compiled, and on a GPU captured, once.

    Args:
        before: how the run that this one goes on from had it; dropout draws other numbers in a compiled tail.
    """
    if args.compile_tail == "off" or (args.compile_tail == "auto" and args.device.type != "cuda"):
        return
    if before is not None and not before.endswith(COMPILED):
        return
    mode = "reduce-overhead" if BACKEND == "inductor" else None
    torch._dynamo.config.recompile_limit = GRAPHS  # 8 by default, beyond which it would silently stay as it was
    compiled = torch.compile(model.run_tail, backend=BACKEND, mode=mode, dynamic=False)
    if args.compile_tail == "auto" and before is None and not _faster(model.to(args.device), compiled, cache, args):
        return
    model.compiled_tail = compiled


def _faster(
    model: BertForPairwiseCLS,
    compiled: Callable[[Tensor, Tensor | None], Tensor],
    cache: PrefixCache,
    args: FreezeTrainingArguments,
) -> bool:
    """Whether the compiled tail is, on the cache's first pairs."""
    states, mask = cache.gather(range(min(args.per_device_train_batch_size, len(cache.offsets) - 1)))
    states, mask = states.to(args.device), None if mask is None else mask.to(args.device)
    eager, fast = (_seconds(model, tail, states, mask, args) for tail in (model.run_tail, compiled))
    say(args, f"tail: {1000 * eager:.2f} ms forward and backward, {1000 * fast:.2f} ms compiled")
    return fast < eager


def _seconds(
    model: BertForPairwiseCLS,
    tail: Callable[[Tensor, Tensor | None], Tensor],
    states: Tensor,
    mask: Tensor | None,
    args: FreezeTrainingArguments,
) -> float:
    """Seconds of a forward and backward pass, warm; random states and gradients are as they were afterwards."""
    training = model.training
    model.train()
    with torch.random.fork_rng(), torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
        for step in range(3 + STEPS):
            if step == 3:
                _synchronize(args.device)
                start = time.perf_counter()
            tail(states.to(model.dtype), mask).float().sum().backward()
        _synchronize(args.device)
    model.zero_grad()
    model.train(training)
    return (time.perf_counter() - start) / STEPS


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
