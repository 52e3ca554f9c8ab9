"""What is frozen: the --freeze_layers grammar, the plan, and the proof afterwards that it stayed so."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import nn

from recipe.arguments import FreezeArguments
from recipe.errors import UserError
from recipe.model.modeling import BertForPairwiseCLS


def parse_layers(spec: str | None, num_layers: int) -> set[int]:
    """The layers that a --freeze_layers value names; without one all but the last two.

    Raises:
        UserError: `spec` is not of the form 0-9, 0-5,8, all or none, or names a layer that the model does not have.
    """
    if spec is None:
        return set(range(num_layers - 2))
    if spec in ("all", "none"):
        return set(range(num_layers)) if spec == "all" else set()
    layers: set[int] = set()
    for part in spec.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        if not match:
            raise UserError(f"--freeze_layers {spec!r}: 0-9, 0-5,8, all or none is expected")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"--freeze_layers {spec}: {part.strip()} runs backwards; {last}-{first} is expected")
        if last >= num_layers:
            raise UserError(f"--freeze_layers {spec}: no layer {last}; the model's layers are 0-{num_layers - 1}")
        layers.update(range(first, last + 1))
    return layers


def freeze(model: BertForPairwiseCLS, args: FreezeArguments) -> None:
    """Switch `requires_grad` off where `args` says so, and tell the model how deep its frozen prefix is.

    Raises:
        UserError: a layer does not exist, or a pattern is no regular expression or matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    layers = parse_layers(args.freeze_layers, model.config.num_hidden_layers)
    embeddings = 0 in layers if args.freeze_embeddings is None else args.freeze_embeddings
    starts = [f"bert.encoder.layer.{layer}." for layer in layers]  # the dot keeps layer 1 apart from 10 and 11
    starts += ["bert.embeddings."] * embeddings
    frozen = {name for name in names if name.startswith(tuple(starts))}
    for pattern in args.freeze_modules or []:
        frozen |= _matching("--freeze_modules", pattern, names)
    for pattern in args.unfreeze_modules or []:
        frozen -= _matching("--unfreeze_modules", pattern, names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    model.prefix_depth = prefix_depth(model)
    model.frozen_dropout = args.frozen_dropout
    model.eval()  # the next train() has to look anew which modules are frozen


def _matching(flag: str, pattern: str, names: list[str]) -> set[str]:
    candidates = [name for name in names if not name.startswith("classifier.")]
    try:
        found = {name for name in candidates if re.search(pattern, name)}
    except re.error as error:
        raise UserError(f"{flag} {pattern!r}: not a regular expression: {error}") from error
    if not found:
        shapes = dict.fromkeys(re.sub(r"\.layer\.\d+\.", ".layer.N.", name) for name in candidates)
        raise UserError(
            f"{flag} {pattern!r}: matches no parameter besides the classifier's; there are {', '.join(shapes)}"
        )
    return found


def is_frozen(module: nn.Module) -> bool:
    """Whether every parameter of the module is frozen."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def prefix_depth(model: BertForPairwiseCLS) -> int | None:
    """Layers from 0 upward that are frozen whole, above frozen embeddings; None where the embeddings are trained."""
    if not is_frozen(model.bert.embeddings):
        return None
    trained = [index for index, layer in enumerate(model.bert.encoder.layer) if not is_frozen(layer)]
    return min(trained, default=model.config.num_hidden_layers)


class PlanRow(NamedTuple):
    """One module of the plan: its parameters, and how many of them are trained."""

    module: str
    parameters: int
    trainable: int


class FreezePlan(NamedTuple):
    """What a run trains and what it leaves alone."""

    rows: list[PlanRow]
    prefix_depth: int | None

    @property
    def parameters(self) -> int:
        """All parameters of the model."""
        return sum(row.parameters for row in self.rows)

    @property
    def trainable(self) -> int:
        """Those that are trained."""
        return sum(row.trainable for row in self.rows)


def make_plan(model: BertForPairwiseCLS) -> FreezePlan:
    """The plan of a model after `freeze`: embeddings, each layer, classifier, each further tail."""
    modules = [("embeddings", model.bert.embeddings)]
    modules += [(f"layer {index}", layer) for index, layer in enumerate(model.bert.encoder.layer)]
    modules += [("classifier", model.classifier)]
    modules += [(f"tail {number}", tail) for number, tail in enumerate(model.other_tails, start=2)]
    rows = []
    for name, module in modules:
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
        rows.append(PlanRow(name, sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)))
    return FreezePlan(rows, model.prefix_depth)


def wasteful_choices(plan: FreezePlan, checkpointing: bool) -> Iterator[str]:
    """One line for each choice that costs more than it needs to, with its cost as measured on BERT-base on CPU."""
    embeddings, *layers = (row for row in plan.rows if row.module.startswith(("embeddings", "layer")))
    frozen = [index for index, row in enumerate(layers) if row.trainable == 0]
    if not frozen:
        return
    stranded = [index for index in frozen if plan.prefix_depth is None or index >= plan.prefix_depth]
    if embeddings.trainable and 0 in frozen:
        yield (
            "the embeddings are trained under frozen layers, so backward crosses all of them: with 0-9 frozen a step "
            "takes 1.75 times as long; --freeze_embeddings true avoids it"
        )
    elif stranded:
        yield (
            f"layers {_ranges(stranded)} are frozen above something trained, so backward still crosses them; "
            "only layers frozen from 0 upward save their whole work"
        )
    if checkpointing:
        yield (
            "activation checkpointing runs each trained layer forward twice; frozen layers keep no activations, "
            "so there is little memory left to save"
        )


def _ranges(numbers: Iterable[int]) -> str:
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
