"""Whether a cache of a part of the pairs pays: measured, since it depends on the disk and the processor."""

import math
import os
import tempfile
import time
from pathlib import Path

import torch

from recipe.arguments import RecipeArguments
from recipe.cache_key import CacheKey
from recipe.modeling import BertForPairwiseCLS
from recipe.prefix_cache import size_in_bytes
from recipe.tokens import Tokens, collate

PAIRS = 32
TRIAL_BYTES = 32 << 20


def passes(arguments: RecipeArguments, rows: int) -> float:
    """How often a run reads its training split of so many rows: --max_steps, where it is given, is what counts."""
    args = arguments.training
    if args.max_steps <= 0:
        return args.num_train_epochs
    each = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return args.max_steps / math.ceil(rows / each)


def why_not_partly(
    model: BertForPairwiseCLS, kept: Tokens, key: CacheKey, arguments: RecipeArguments, epochs: float, told: str
) -> str | None:
    """The reason why not; None where it pays.

    Encoding computes a kept pair once and each epoch reads it; without a cache each epoch computes it.

    Args:
        kept: the tokens of the pairs that would be kept.
        epochs: how often the training split is read.
        told: what is said of them.
    """
    args = arguments.training
    compute = seconds_to_compute(model.to(args.device), kept)
    read = size_in_bytes(kept, key) / len(kept.labels) / bytes_a_second(Path(arguments.cache.prefix_cache_dir))
    measured = f"computing a pair takes {1000 * compute:.3g} ms, reading one {1000 * read:.3g} ms"
    pays = compute + epochs * read < epochs * compute
    return None if pays else f"{told}, which does not pay ({measured})"


def seconds_to_compute(model: BertForPairwiseCLS, tokens: Tokens) -> float:
    """Seconds a pair takes in the frozen prefix, in a batch of pairs of middling length; the best of three."""
    middle = torch.argsort(tokens.lengths)[max(0, len(tokens.labels) // 2 - PAIRS // 2) :][:PAIRS].tolist()
    batch = collate([tokens.example(index) for index in middle], pad_token_id=0)
    inputs = [batch[name].to(model.device) for name in ("input_ids", "attention_mask", "token_type_ids")]
    seconds = []
    training = model.training
    model.eval()
    for _ in range(3):
        start = time.perf_counter()
        float(model.run_prefix(*inputs)[0, 0, 0])  # the value waits for the GPU
        seconds.append(time.perf_counter() - start)
    model.train(training)
    return min(seconds) / len(middle)


def bytes_a_second(directory: Path) -> float:
    """How fast the disk under `directory` reads what memory does not hold.

    Raises:
        OSError: it cannot be written.
    """
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        file.write(os.urandom(TRIAL_BYTES))
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # not on macOS and Windows, where memory may answer
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        start = time.perf_counter()
        file.read(TRIAL_BYTES)
        return TRIAL_BYTES / (time.perf_counter() - start)
