"""The training loss over an optimizer step: cross-entropy, weighted by label if asked for; squared error of scores.

And whether it is a number.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from recipe.checkpoints.rotation import checkpoint_folders
from recipe.data.pairs import UNLABELLED
from recipe.data.splits import Split, iterate
from recipe.errors import RunError, UserError
from recipe.model.modeling import summed_loss
from recipe.process.text import shown

MOST_WEIGHT = 1_000_000  # far beyond it a loss overflows, and the learning rate would be blamed


def mean_loss(label_smoothing: float, class_weights: Tensor | None = None) -> Callable[..., Tensor]:
    """The Trainer's compute_loss_func: the loss summed over a micro-batch, over the examples of the whole step.

    A mean of each micro-batch would weigh a short last one too much; and whether the Trainer divides by the
    accumulation steps is guessed from the model's signature (transformers#47688). For the same reason `class_weights`
    (labels,) multiply each example's loss and are not divided by their own sum, which differs from part to part. Of
    several tails each is asked for itself, and the mean taken: what one tail learns does not depend on the others.
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The micro-batch's share of the step's mean; 0 where a rank has no example in a short last step."""
        tails = outputs["tail_logits"] if "tail_logits" in outputs else outputs["logits"][None]
        weight = None if class_weights is None else class_weights.to(tails.device)
        total = torch.stack([summed_loss(each.float(), labels, weight, label_smoothing) for each in tails]).mean()
        items = (labels != UNLABELLED).sum() if num_items_in_batch is None else num_items_in_batch
        # with --average_tokens_across_devices false the items are this rank's own
        return total / (items.clamp(min=1) if isinstance(items, Tensor) else max(items, 1))

    return loss


class LossWatch:
    """Stops a run at the first loss that is not finite, without waiting for a GPU in every step.

    From that loss on AdamW's fused kernel leaves weights and moments as they are: it is told so on the device, as a
    gradient scaler tells it of an overflow (`found_inf`). The host looks a few steps later.

    Args:
        folder: the run's, where its last good checkpoint is.
        every: steps between two looks; 1 where the optimizer has no such kernel.
        ranks: processes whose gradients are averaged, so that one's loss is every one's matter.
    """

    def __init__(self, optimizer: Any, folder: Path, every: int = 1, ranks: int = 1) -> None:
        self._optimizer, self._folder, self._ranks = getattr(optimizer, "optimizer", optimizer), folder, ranks
        fused = isinstance(self._optimizer, AdamW) and self._optimizer.defaults["fused"]
        self._every = every if fused else 1
        self._steps: list[tuple[int, float]] = []
        self._losses: list[Tensor] = []
        self._bad: list[Tensor] = []  # of each step since the last look, whether one of any rank's up to it was

    def add(self, loss: Tensor, step: int) -> None:
        """Note a step's loss (), before the optimizer takes the step; looks where it is time to."""
        self._steps.append((step, self._optimizer.param_groups[0]["lr"]))
        self._losses.append(loss.detach().float())
        if self._every > 1:
            bad = (~loss.detach().isfinite()).float()
            if self._ranks > 1:
                torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
            self._bad.append(torch.maximum(self._bad[-1], bad) if self._bad else bad)
            self._optimizer.found_inf = self._bad[-1]
        if len(self._steps) >= self._every:
            self.look()

    def look(self) -> None:
        """Wait for the device, and have it tell.

        Raises:
            RunError: a loss is not finite. The weights are still good.
        """
        if not self._steps:
            return
        found = torch.stack([*self._losses, *self._bad]).tolist()
        steps, self._steps, self._losses, self._bad = self._steps, [], [], []
        values, bad = found[: len(steps)], found[len(steps) :] or [0.0] * len(steps)
        for value, elsewhere, (step, rate) in zip(values, bad, steps, strict=True):
            if elsewhere or not math.isfinite(value):
                self._refuse(math.nan if math.isfinite(value) else value, step, rate)  # NaN for another rank's

    def _refuse(self, value: float, step: int, rate: float) -> None:
        last = next(iter(checkpoint_folders(self._folder)), None)
        raise RunError(
            f"the loss is {value} at step {step} (learning rate {rate:.3g}); stopped before the weights changed; last "
            f"good checkpoint: {last or 'none yet'}. A smaller --learning_rate or --max_grad_norm is the usual way out"
        )


def parse_class_weights(text: str | None, names: Sequence[str]) -> list[float] | None:
    """The numbers of --class_weights, a label each; None where there are none, or `balanced` is to count them.

    Raises:
        UserError: it is neither.
    """
    if text is None or text == "balanced":
        return None
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != len(names) or not all(0 <= each <= MOST_WEIGHT for each in weights) or not any(weights):
        raise UserError(
            f"--class_weights {text}: 'balanced', or a number from 0 to {MOST_WEIGHT:,} for each of the labels "
            f"{', '.join(names)}, separated by commas, is expected"
        )
    return weights


def class_weights(text: str | None, split: Split) -> Tensor | None:
    """The weights of --class_weights for a training split, (labels,); None where it is not given.

    `balanced` is examples / (labels * examples of the label), as scikit-learn's compute_class_weight has it, so that
    the mean weight over the split is 1.

    Raises:
        UserError: it does not fit the labels, or a label does not occur.
    """
    weights = parse_class_weights(text, split.label_names)
    if text is None or weights is not None:
        return None if weights is None else torch.tensor(weights)
    counts = Counter(pair["label"] for pair in iterate(split.pairs))
    missing = [name for label, name in enumerate(split.label_names) if not counts[label]]
    if missing:
        raise UserError(f"--class_weights balanced: {split.source} has no pair of label {missing[0]}; give numbers")
    return torch.tensor([counts.total() / (len(counts) * counts[label]) for label in range(len(split.label_names))])


def describe_weights(weights: Tensor, names: Sequence[str]) -> str:
    """A line that says what each label counts."""
    return shown(
        "class weights: " + ", ".join(f"{name} {weight:.3g}" for name, weight in zip(names, weights, strict=True))
    )
