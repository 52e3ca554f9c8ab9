"""The encoding pass beside a stock forward, and the machine's own ceiling."""

import copy
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from recipe.arguments import ModelArguments
from recipe.cache.encoding import equal_length_batches
from recipe.cache.key import BATCH_TOKENS, batch_pairs
from recipe.model.base_model import open_base
from recipe.model.loading import load_model
from recipe.model.modeling import BertForPairwiseCLS

DEPTH = 10
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load(folder: Path) -> BertForPairwiseCLS:
    args = ModelArguments(model_name_or_path=str(folder))
    base = open_base(args)
    return load_model(base).to(DEVICE).eval()


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_encoding(folder: Path, lengths: list[int], rounds: int = 3) -> dict[str, float]:
    """Real tokens a second through ten layers: stock batches of 32 in float32, and this recipe's in both types."""
    model = _load(folder)
    layers = model.bert.encoder.layer[:DEPTH]
    half = copy.deepcopy(layers).to(torch.bfloat16)
    hidden = model.config.hidden_size
    rng = random.Random(3)
    stock_batches = [rng.sample(lengths, 32) for _ in range(rounds)]
    ours = [batch for batch in equal_length_batches(torch.tensor(lengths), BATCH_TOKENS[DEVICE.type])]
    sizes = [(batch_pairs(lengths[int(batch[0])], BATCH_TOKENS[DEVICE.type]), lengths[int(batch[0])]) for batch in ours]
    sizes.sort(key=lambda size: size[1])
    by_tokens = [size for size in sizes for _ in range(size[0] * size[1] // 256)]
    chosen = [by_tokens[int((place + 0.5) / rounds * len(by_tokens))] for place in range(rounds)]

    def run(modules: Any, states: torch.Tensor, mask: torch.Tensor | None) -> None:
        with torch.no_grad():
            for layer in modules:
                states = layer(states, mask)

    rates: dict[str, list[float]] = {"stock float32": [], "float32": [], "bfloat16": []}
    for batch, (pairs, length) in zip(stock_batches, chosen, strict=True):
        states = torch.randn(32, max(batch), hidden, device=DEVICE)
        mask = (torch.arange(max(batch)) < torch.tensor(batch)[:, None])[:, None, None, :].to(DEVICE)
        mask = mask.expand(-1, -1, max(batch), -1)
        rates["stock float32"].append(sum(batch) / _seconds(lambda s=states, m=mask: run(layers, s, m)))
        for name, modules, dtype in (("float32", layers, torch.float32), ("bfloat16", half, torch.bfloat16)):
            whole = torch.randn(pairs, length, hidden, device=DEVICE, dtype=dtype)
            run(modules[:1], whole, None)
            rates[name].append(pairs * length / _seconds(lambda s=whole, m=modules: run(m, s, None)))
    return {name: statistics.harmonic_mean(values) for name, values in rates.items()}


def measure_ceiling(folder: Path, found: dict[str, Any] | None) -> dict[str, float]:
    """The machine's matrix-product rate, the arithmetic of a cached step, and the share of that rate it reaches."""
    a, b = torch.randn(1024, 768, device=DEVICE), torch.randn(768, 3072, device=DEVICE)
    times = [_seconds(lambda: torch.matmul(a, b)) for _ in range(30)]
    rate = 2 * a.shape[0] * a.shape[1] * b.shape[1] / statistics.median(times[5:])
    result = {"matmul_flops_a_second": rate}
    if found is None:
        return result
    model = _load(folder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("bert.encoder.layer.10.", "bert.encoder.layer.11.", "classifier.")))
    model.prefix_depth = DEPTH
    flops = []
    for longest, _ in found["batches"]:
        states = torch.randn(32, longest, model.config.hidden_size, device=DEVICE)
        with FlopCounterMode(display=False) as counter:
            model(prefix_states=states, labels=torch.zeros(32, dtype=torch.long, device=DEVICE)).loss.backward()
        flops.append(counter.get_total_flops())
    result["step_flops"] = statistics.mean(flops)
    result["step_flops_a_second"] = result["step_flops"] / found["step_seconds"]
    result["share"] = result["step_flops_a_second"] / rate
    return result
