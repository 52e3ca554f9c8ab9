"""The training loss: a mean over the examples of a whole step, however the step is cut up."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from recipe.batching import IGNORED_LABEL


def mean_loss(label_smoothing: float) -> Callable[..., Tensor]:
    """The Trainer's compute_loss_func: cross-entropy summed over a micro-batch, over the examples of the whole step.

    A mean of each micro-batch would weigh a short last one too much; and whether the Trainer divides by the
    accumulation steps is guessed from the model's signature (transformers#47688).
    """

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The micro-batch's share of the step's mean; 0 where a rank has no example in a short last step."""
        logits = outputs["logits"].float()
        total = nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
        items = (labels != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch
        # with --average_tokens_across_devices false the items are this rank's own
        return total / (items.clamp(min=1) if isinstance(items, Tensor) else max(items, 1))

    return loss
