"""Accuracy and its company, offline: scikit-learn behind evaluate's interface, SciPy for intervals and tests."""

import tempfile
from collections.abc import Mapping
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
    roc_auc_score,
)
from transformers import EvalPrediction

from recipe.evaluation.comparing import mcnemar
from recipe.evaluation.regression import basic_scores, full_scores


class Accuracy(evaluate.Metric):
    """Share of predictions that equal their reference; `evaluate.load("accuracy")` would ask the Hub for the same."""

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(
            description="Share of predictions that equal their reference.", citation="", features=features
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


def by_name(metrics: dict[str, Any]) -> dict[str, Any]:
    """An evaluation's metrics without the Trainer's eval_ before their names."""
    return {key.removeprefix("eval_"): value for key, value in metrics.items()}


def headline(scores: Mapping[str, Any]) -> tuple[str, str]:
    """What answers are judged by first: its name among the metrics, and what it is called."""
    return ("pearson", "Pearson") if "pearson" in scores else ("accuracy", "accuracy")


def decimals(score: float | None) -> str:
    """A score as it is shown; a word where it is undefined: a correlation with a constant, an AUC without a label."""
    return "undefined" if score is None else f"{score:.4f}"


def majority_baseline(labels: np.ndarray) -> float:
    """Accuracy of always answering the most frequent of `labels` (examples,)."""
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))


def compute_metrics(prediction: EvalPrediction) -> dict[str, Any]:
    """What each evaluation tells, from logits (examples, labels) and label_ids (examples,).

    accuracy, majority_baseline, loss, f1, mcc, ece, and, where each label occurs, roc_auc and average_precision; with
    two labels f1 and average_precision are of label 1, with more they are means over labels. The loss is the mean over
    examples and takes the place of the Trainer's, which is a mean over batches as if the last were full
    (Trainer.evaluation_loop) and so changes with the batch size. Of scores, which have one column: `basic_scores`.
    """
    logits, labels = np.asarray(prediction.predictions, dtype=np.float64), np.asarray(prediction.label_ids)
    if logits.shape[1] == 1:
        return basic_scores(logits[:, 0], labels)
    probabilities, predictions = softmax(logits, axis=-1), logits.argmax(-1)
    with tempfile.TemporaryDirectory() as folder:  # evaluate makes one all the same, in HOME by itself
        accuracy = Accuracy(keep_in_memory=True, cache_dir=folder)
        scores = accuracy.compute(predictions=predictions, references=labels)
    losses = -np.take_along_axis(log_softmax(logits, axis=-1), labels[:, None], axis=-1)
    average = "binary" if logits.shape[1] == 2 else "macro"
    scores |= {"majority_baseline": majority_baseline(labels), "loss": float(losses.mean())}
    classes = None if average == "binary" else range(logits.shape[1])  # by itself, of those that occur
    scores["f1"] = float(f1_score(labels, predictions, labels=classes, average=average, zero_division=0))
    told_apart = len(np.union1d(labels, predictions)) > 1  # else scikit-learn gives 0 with a warning
    scores["mcc"] = float(matthews_corrcoef(labels, predictions)) if told_apart else 0.0
    scores["ece"] = expected_calibration_error(probabilities, labels)
    return scores | {name: value for name, value in _ranking(probabilities, labels).items() if value is not None}


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """All that is said of a model's answers, JSON-ready.

    What `compute_metrics` gives, and accuracy's 95 % interval (Wilson), majority_p_value (McNemar's test against always
    answering the most frequent label), confusion_matrix (rows are the true labels) and by_class (precision, recall, f1
    and support of each label). With two labels best_threshold
    is what probability of label 1 to ask for so that accuracy on these very pairs is highest. roc_auc and
    average_precision are None where a label does not occur. Of scores, which have one column: `full_scores`.

    Args:
        logits: (examples, labels).
        labels: (examples,), each at least 0, or any scores.
    """
    logits = np.asarray(logits, dtype=np.float64)
    if logits.shape[1] == 1:
        return full_scores(logits[:, 0], labels)
    probabilities, predictions = softmax(logits, axis=-1), logits.argmax(-1)
    right = predictions == labels
    low, high = accuracy_interval(int(right.sum()), len(right))
    scores: dict[str, Any] = {"accuracy": float(right.mean()), "accuracy_low": low, "accuracy_high": high}
    scores |= {"roc_auc": None, "average_precision": None}
    scores |= compute_metrics(EvalPrediction(predictions=logits, label_ids=labels))
    scores["majority_p_value"] = mcnemar(right, labels == np.bincount(labels).argmax())["p_value"]
    scores["confusion_matrix"] = confusion_matrix(labels, predictions, labels=range(logits.shape[1])).tolist()
    scores["by_class"] = _by_class(labels, predictions, logits.shape[1])
    if logits.shape[1] == 2:
        threshold = best_threshold(probabilities[:, 1], labels)
        scores["best_threshold"] = threshold
        scores["accuracy_at_best_threshold"] = accuracy_at(threshold, probabilities[:, 1], labels)
    return scores


def _by_class(labels: np.ndarray, predictions: np.ndarray, classes: int) -> list[dict[str, float]]:
    """Precision, recall, F1 and support of each label; 0 where a label is never answered, or does not occur."""
    parts = precision_recall_fscore_support(labels, predictions, labels=range(classes), zero_division=0)
    names = ("precision", "recall", "f1", "support")
    return [dict(zip(names, map(float, values), strict=True)) for values in zip(*parts, strict=True)]


def accuracy_interval(right: int, examples: int) -> tuple[float, float]:
    """95 % interval of an accuracy (Wilson 1927)."""
    interval = binomtest(right, examples).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


RANKING = ("roc_auc", "average_precision")


def _ranking(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    if len(np.unique(labels)) < probabilities.shape[1]:
        return dict.fromkeys(RANKING)
    if probabilities.shape[1] == 2:
        ranks = probabilities[:, 1]
        area, precision = roc_auc_score(labels, ranks), average_precision_score(labels, ranks)
    else:
        one_hot = np.eye(probabilities.shape[1])[labels]
        area = roc_auc_score(labels, probabilities, multi_class="ovr")
        precision = average_precision_score(one_hot, probabilities)
    return {"roc_auc": float(area), "average_precision": float(precision)}


BINS = 15


def calibration_bins(probabilities: np.ndarray, labels: np.ndarray) -> list[tuple[int, float, float]]:
    """(examples, mean confidence, accuracy) of each of 15 equal bins of the prediction's probability that has any."""
    confidence, right = probabilities.max(-1), probabilities.argmax(-1) == labels
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = [places == place for place in range(BINS)]
    return [(int(each.sum()), float(confidence[each].mean()), float(right[each].mean())) for each in bins if each.any()]


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance of confidence from accuracy over bins of confidence (Guo et al. 2017, eq. 3)."""
    bins = calibration_bins(probabilities, labels)
    return sum(count * abs(confidence - accuracy) for count, confidence, accuracy in bins) / len(labels)


NEVER = float(np.nextafter(1.0, 2.0))  # the least that no probability reaches


def best_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The probability of label 1 (examples,) from which on to answer 1 so that accuracy is highest; nearest to 0.5.

    0 is always, and what is above 1 never.
    """
    order = np.argsort(probabilities, kind="stable")
    ranked, positive = probabilities[order], labels[order] == 1
    # answering 1 from place i on: the zeros before it and the ones behind it are right
    right = np.concatenate([[0], np.cumsum(~positive)]) + positive.sum() - np.concatenate([[0], np.cumsum(positive)])
    middle = (ranked[:-1] + ranked[1:]) / 2
    middle = np.where(middle > ranked[:-1], middle, ranked[1:])  # no float64 lies between neighbours
    cuts = np.concatenate([[0.0], middle, [NEVER]])
    possible = np.concatenate([[True], ranked[:-1] < ranked[1:], [True]])
    best = possible & (right == right[possible].max())
    return float(min(cuts[best], key=lambda cut: abs(cut - 0.5)))


def accuracy_at(threshold: float, probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of answering 1 from that probability (examples,) of label 1 on."""
    return float(((probabilities >= threshold) == (labels == 1)).mean())
