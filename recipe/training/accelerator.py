"""What only a GPU asks for: the cache in its memory, few lengths of batches, and a tail that is captured as one graph.

At batch 32 the arithmetic of a cached step is over before Python has launched it; what is left is to launch less.
"""

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType

from recipe.arguments import FreezeTrainingArguments
from recipe.cache.cached_split import PrefixCache
from recipe.internals import allow_recompiles
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.progress import say
from recipe.training.loss import LossWatch

PAD_TO_MULTIPLE_OF = 8  # tokens; batches of AFQMC then have 17 lengths, none above 136
SHARE = 0.5  # of the free memory, which the tail's weights, gradients and moments must fit into as well
GRAPHS = 64  # lengths of batches, and those of the last and shorter batch of an epoch
BACKEND = "inductor"
LOOK_EVERY = 16  # steps, of some milliseconds each


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, once all is given back that the encoding pass, the prefix or an earlier run used.

    A fold of an audit or a trial of a search leaves its model and cache in cycles, as large as this one's.
    """
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def place_caches(caches: list[PrefixCache], args: FreezeTrainingArguments) -> list[PrefixCache]:
    """The caches as the run's device wants them: padded to few lengths for a GPU or a compiled tail, else as they are.

    They go to GPU memory where there is room for them and no worker process that could not reach it; the loader's
    pinning, which is for batches in the host's memory, is switched off then.
    """
    gpu = args.device.type == "cuda"
    if not gpu and args.compile_tail != "on":
        return caches
    if gpu and not args.dataloader_num_workers:
        size = sum(cache.size_in_bytes for cache in caches)
        free = free_bytes(args.device)
        if size <= SHARE * free:
            args.dataloader_pin_memory = False
            say(args, f"prefix cache: in GPU memory, {size / 1e9:.2f} of {free / 1e9:.2f} GB that are free")
            return [cache.to(args.device, PAD_TO_MULTIPLE_OF) for cache in caches]
        say(args, f"prefix cache: {size / 1e9:.2f} GB stay with the host, {free / 1e9:.2f} GB of GPU memory are free")
    return [replace(cache, pad_to_multiple_of=PAD_TO_MULTIPLE_OF) for cache in caches]


def watch_losses(optimizer: Any, accelerator: Accelerator, folder: Path) -> LossWatch:
    """A LossWatch that waits for a GPU every so many steps, and for a CPU, which is waited for anyhow, in each.

    In each too where something else has a say in `found_inf` (a scaler), or in which rank's weights are where.
    """
    plain = accelerator.scaler is None and accelerator.distributed_type in (
        DistributedType.NO,
        DistributedType.MULTI_GPU,
    )
    every = LOOK_EVERY if plain and accelerator.device.type == "cuda" else 1
    return LossWatch(optimizer, folder, every, accelerator.num_processes)


def compile_tail(model: BertForPairwiseCLS, accumulation: int) -> None:
    """Have training run the tail compiled. Each length of batch is compiled, and on a GPU captured, once.

    Where several micro-batches make a step, it is compiled and not captured: a replay of backward writes its gradients
    where the last one's lie, which are still to be added to (torch.compiler's notes on CUDA graph trees).

    Args:
        accumulation: micro-batches of an optimizer step.
    """
    mode = "reduce-overhead" if BACKEND == "inductor" and accumulation == 1 else None
    allow_recompiles(GRAPHS)
    model.compiled_tail = torch.compile(model.run_tail, backend=BACKEND, mode=mode, dynamic=False)
