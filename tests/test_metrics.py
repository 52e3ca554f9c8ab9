import evaluate
import numpy as np
import pytest
import torch
from transformers import EvalPrediction

from recipe.metrics import Accuracy, compute_metrics, majority_baseline


def test_accuracy_works_offline_and_combined():
    combined = evaluate.combine({name: Accuracy(keep_in_memory=True) for name in ("one", "other")})
    scores = combined.compute(predictions=[0, 1, 1, 1], references=[0, 1, 0, 1])
    assert scores == {"one_accuracy": 0.75, "other_accuracy": 0.75}


def test_compute_metrics():
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.5]], dtype=np.float32)
    labels = np.array([0, 1, 1])
    metrics = compute_metrics(EvalPrediction(predictions=logits, label_ids=labels))
    assert metrics["accuracy"] == pytest.approx(2 / 3)
    assert metrics["majority_baseline"] == pytest.approx(2 / 3)
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)).item()
    assert metrics["loss"] == pytest.approx(expected, abs=1e-6)


def test_majority_baseline_of_three_classes():
    assert majority_baseline(np.array([2, 2, 0, 1, 2])) == 0.6
