"""Accuracy, its majority baseline and the loss, offline: scikit-learn behind evaluate's interface."""

from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score
from transformers import EvalPrediction


class Accuracy(evaluate.Metric):
    """Share of predictions that equal their reference; `evaluate.load("accuracy")` would ask the Hub for the same."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(
            description="Share of predictions that equal their reference.", citation="", features=features
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


def majority_baseline(labels: np.ndarray) -> float:
    """Accuracy of always answering the most frequent of `labels` (examples,)."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """accuracy, majority_baseline and loss from logits (examples, labels) and label_ids (examples,).

    The loss is the mean over examples and takes the place of the Trainer's, which is a mean over batches as if the
    last were full (Trainer.evaluation_loop) and so changes with the batch size.
    """
    logits, labels = np.asarray(prediction.predictions, dtype=np.float64), np.asarray(prediction.label_ids)
    accuracy = Accuracy(keep_in_memory=True).compute(predictions=logits.argmax(-1), references=labels)
    losses = -np.take_along_axis(log_softmax(logits, axis=-1), labels[:, None], axis=-1)
    return {**accuracy, "majority_baseline": majority_baseline(labels), "loss": float(losses.mean())}
