"""The encoding pass beside a stock forward, and the machine's own ceiling."""

import copy
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
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
from recipe.system.arithmetic import multiplies_in_bfloat16

DEPTH = 10
PASSES = 4  # the first one only warms up
SHAPES = (1024, 768), (768, 3072)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# a processor without bfloat16 takes ten times as long in it, and nobody would
TYPES = ("float32", "bfloat16") if multiplies_in_bfloat16(DEVICE.type) else ("float32",)


def _load(folder: Path) -> BertForPairwiseCLS:
    args = ModelArguments(model_name_or_path=str(folder))
    base = open_base(args)
    return load_model(base).to(DEVICE).eval()


def _settled(call: Callable[[], Any]) -> float:
    """Seconds that a call takes in a row of calls: the first ones after another system's turn find cold caches."""
    return statistics.median([_seconds(call) for _ in range(PASSES)][1:])


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class EncodingRates:
    """Real tokens a second through ten layers: stock batches of 32 in float32, and this recipe's in each type."""

    def __init__(self, folder: Path, lengths: list[int], rounds: int) -> None:
        model = _load(folder)
        layers = model.bert.encoder.layer[:DEPTH]
        self.modules = {"float32": layers}
        self.modules |= {name: copy.deepcopy(layers).to(getattr(torch, name)) for name in TYPES[1:]}
        self.hidden = model.config.hidden_size
        rng = random.Random(3)
        self.stock_batches = [rng.sample(lengths, 32) for _ in range(rounds)]
        tokens = BATCH_TOKENS[DEVICE.type]
        ours = [lengths[int(batch[0])] for batch in equal_length_batches(torch.tensor(lengths), tokens)]
        sizes = sorted(((batch_pairs(length, tokens), length) for length in ours), key=lambda size: size[1])
        by_tokens = [size for size in sizes for _ in range(size[0] * size[1] // 256)]
        self.chosen = [by_tokens[int((place + 0.5) / rounds * len(by_tokens))] for place in range(rounds)]
        self.rates: dict[str, list[float]] = {name: [] for name in ("stock float32", *TYPES)}

    def take(self, place: int) -> None:
        """Measure each at that place of the order of lengths."""
        batch, (pairs, length) = self.stock_batches[place], self.chosen[place]
        states = torch.randn(32, max(batch), self.hidden, device=DEVICE)
        mask = (torch.arange(max(batch)) < torch.tensor(batch)[:, None])[:, None, None, :].to(DEVICE)
        mask = mask.expand(-1, -1, max(batch), -1)
        layers = self.modules["float32"]
        self.rates["stock float32"].append(sum(batch) / _settled(lambda: _through(layers, states, mask)))
        for name, modules in self.modules.items():
            whole = torch.randn(pairs, length, self.hidden, device=DEVICE, dtype=getattr(torch, name))
            self.rates[name].append(pairs * length / _settled(partial(_through, modules, whole, None)))

    def result(self) -> dict[str, float]:
        """The rates of all rounds together."""
        return {name: statistics.harmonic_mean(values) for name, values in self.rates.items()}


def _through(modules: Any, states: torch.Tensor, mask: torch.Tensor | None) -> None:
    with torch.no_grad():
        for layer in modules:
            states = layer(states, mask)


class MatrixRates:
    """The machine's matrix-product rate in each type, taken between the systems' rounds."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {name: [] for name in TYPES}

    def take(self) -> None:
        """Thirty products in each type; the first ones only warm up."""
        for name, times in self.times.items():
            a, b = (torch.randn(shape, device=DEVICE, dtype=getattr(torch, name)) for shape in SHAPES)
            times += [_seconds(lambda a=a, b=b: torch.matmul(a, b)) for _ in range(30)][5:]

    def result(self) -> dict[str, float]:
        """Operations a second, by type."""
        flops = 2 * SHAPES[0][0] * SHAPES[0][1] * SHAPES[1][1]
        return {name: flops / statistics.median(times) for name, times in self.times.items()}


def measure_ceiling(folder: Path, rates: dict[str, float], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The matrix-product rates, the arithmetic of a cached step, and the share of the rate it reaches, by type."""
    result: dict[str, Any] = {"matmul_flops_a_second": rates, "share": {}}
    for name, system in found.items():
        result["step_flops"] = step_flops(folder, [longest for longest, _ in system["batches"]])
        result["share"][name] = result["step_flops"] / system["step_seconds"] / rates[name]
    return result


def step_flops(folder: Path, lengths: list[int]) -> float:
    """The matrix products' operations of a cached step, forward and backward, mean over batches of those lengths."""
    model = _load(folder)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("bert.encoder.layer.10.", "bert.encoder.layer.11.", "classifier.")))
    model.prefix_depth = DEPTH
    flops = []
    for longest in lengths:
        states = torch.randn(32, longest, model.config.hidden_size, device=DEVICE)
        with FlopCounterMode(display=False) as counter:
            model(prefix_states=states, labels=torch.zeros(32, dtype=torch.long, device=DEVICE)).loss.backward()
        flops.append(counter.get_total_flops())
    return statistics.mean(flops)
