"""A model's answers to a split: logits and labels, in the split's order."""

from typing import NamedTuple

import numpy as np
from scipy.special import softmax
from transformers import Trainer

from recipe.batches.tokens import SortedPairs


class Answers(NamedTuple):
    """A model's answers to a split, in the split's order."""

    logits: np.ndarray  # (examples, labels)
    labels: np.ndarray  # (examples,), UNLABELLED where there is none
    seconds: float
    stored: bool = False  # whether the frozen prefix's outputs were found, and what is above it alone was computed

    @property
    def regression(self) -> bool:
        """Whether they are scores."""
        return self.logits.shape[1] == 1

    @property
    def scores(self) -> np.ndarray:
        """Of a regression, (examples,), in float64."""
        return self.logits[:, 0].astype(np.float64)

    @property
    def errors(self) -> np.ndarray:
        """Of scores: how much they are above the labels, (examples,)."""
        return self.scores - self.labels

    @property
    def right(self) -> np.ndarray:
        """Which answers are the label, (examples,)."""
        return self.logits.argmax(-1) == self.labels

    @property
    def probabilities(self) -> np.ndarray:
        """Of each label, (examples, labels), in float64."""
        return softmax(self.logits.astype(np.float64), axis=-1)


def answer_pairs(trainer: Trainer, pairs: SortedPairs) -> Answers:
    """A trainer's model's answers to `pairs`, put back into the split's order."""
    compute_metrics, trainer.compute_metrics = trainer.compute_metrics, None
    output = trainer.predict(pairs)
    trainer.compute_metrics = compute_metrics
    logits, labels = np.empty_like(output.predictions), np.empty_like(output.label_ids)
    logits[pairs.order], labels[pairs.order] = output.predictions, output.label_ids
    return Answers(logits, labels, output.metrics["test_runtime"])
