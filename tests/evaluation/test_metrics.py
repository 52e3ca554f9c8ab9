import json

import evaluate
import numpy as np
import pytest
import sklearn.metrics as sklearn
import torch
from scipy.special import softmax
from transformers import EvalPrediction

from recipe.command_line.combinations import METRICS
from recipe.evaluation.metrics import (
    RANKING,
    Accuracy,
    accuracy_at,
    accuracy_interval,
    best_threshold,
    compute_metrics,
    expected_calibration_error,
    majority_baseline,
    score,
)
from recipe.reporting.scores import format_threshold


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


def test_each_evaluation_gives_every_metric_that_may_choose_the_best_model():
    for count in (2, 3):
        logits, labels = answers(labels=count)
        found = compute_metrics(EvalPrediction(predictions=logits, label_ids=labels))
        assert METRICS.keys() <= found.keys()
        assert {name: score(logits, labels)[name] for name in found} == found
    one = compute_metrics(EvalPrediction(predictions=logits[:, :2], label_ids=np.zeros(400, dtype=int)))
    assert METRICS.keys() - one.keys() == set(RANKING)


def test_majority_baseline_of_three_classes():
    assert majority_baseline(np.array([2, 2, 0, 1, 2])) == 0.6


def answers(count=400, labels=2, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, count)
    logits = rng.normal(size=(count, labels)) + 1.2 * np.eye(labels)[truth]
    return logits, truth


def test_score_is_what_scikit_learn_and_evaluate_say():
    logits, labels = answers()
    scores = score(logits, labels)
    probabilities, predictions = softmax(logits, axis=-1)[:, 1], logits.argmax(-1)
    assert scores["accuracy"] == sklearn.accuracy_score(labels, predictions)
    assert scores["f1"] == sklearn.f1_score(labels, predictions)
    assert scores["mcc"] == sklearn.matthews_corrcoef(labels, predictions)
    assert scores["roc_auc"] == sklearn.roc_auc_score(labels, probabilities)
    assert scores["average_precision"] == sklearn.average_precision_score(labels, probabilities)
    assert scores["confusion_matrix"] == sklearn.confusion_matrix(labels, predictions).tolist()
    assert scores["accuracy_low"] < scores["accuracy"] < scores["accuracy_high"]
    json.dumps(scores)


def test_wilson_interval_by_hand():
    low, high = accuracy_interval(70, 100)
    z, share = 1.959964, 0.7
    middle = (share + z * z / 200) / (1 + z * z / 100)
    half = z * np.sqrt(share * 0.3 / 100 + z * z / 40000) / (1 + z * z / 100)
    assert (low, high) == (pytest.approx(middle - half, abs=1e-6), pytest.approx(middle + half, abs=1e-6))


def test_best_threshold_is_the_best_of_all():
    logits, labels = answers(60, seed=3)
    probabilities = softmax(logits, axis=-1)[:, 1]
    every = [accuracy_at(cut, probabilities, labels) for cut in np.linspace(0, 1, 2001)]
    assert accuracy_at(best_threshold(probabilities, labels), probabilities, labels) == max(every)
    assert best_threshold(np.array([0.2, 0.2, 0.9]), np.array([0, 1, 1])) in (0.0, pytest.approx(0.55))
    assert best_threshold(np.array([0.1, 0.9]), np.array([0, 1])) == 0.5


def test_never_does_not_count_a_probability_of_one_and_neighbours_are_told_apart():
    certain, wrong = np.array([1.0, 1.0, 0.2]), np.array([0, 0, 0])
    never = best_threshold(certain, wrong)
    assert never > 1
    assert accuracy_at(json.loads(json.dumps(never)), certain, wrong) == 1
    close = np.array([0.1, np.nextafter(0.1, 1)])
    assert accuracy_at(best_threshold(close, np.array([0, 1])), close, np.array([0, 1])) == 1
    assert format_threshold(never) == "above 1 (label 1 is never answered)"


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.35, 0.65]])
    labels = np.array([0, 1, 1])
    assert expected_calibration_error(probabilities, labels) == pytest.approx((2 * 0.4 + 0.35) / 3)


def test_three_labels_and_a_label_that_does_not_occur():
    logits, labels = answers(labels=3)
    scores = score(logits, labels)
    assert "best_threshold" not in scores
    assert 0.5 < scores["roc_auc"] < 1
    assert score(logits[:, :2], np.zeros(400, dtype=int))["roc_auc"] is None


def test_of_one_label_alone_every_score_is_told_without_a_warning(recwarn):
    """A small split of one's own may have no pair of label 1, and the model answer so."""
    scores = score(np.array([[2.0, 0.0], [1.0, -1.0]]), np.array([0, 0]))
    assert (scores["accuracy"], scores["mcc"], scores["f1"], scores["roc_auc"]) == (1.0, 0.0, 0.0, None)
    assert score(np.array([[2.0, 0.0, -1.0]]), np.array([0]))["mcc"] == 0.0
    assert [str(each.message) for each in recwarn] == []


def test_a_model_is_tested_against_the_majority_on_the_same_pairs():
    labels = np.array([0] * 70 + [1] * 30)
    answers = np.concatenate([np.zeros(65), np.ones(5), np.ones(20), np.zeros(10)]).astype(int)  # 20 won, 5 lost
    scores = score(np.eye(2)[answers], labels)
    assert scores["majority_p_value"] == pytest.approx(0.004077, abs=1e-6)
    assert score(np.eye(2)[np.zeros(100, dtype=int)], labels)["majority_p_value"] == 1.0


def test_a_score_writes_nothing_into_home(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "file" / "metrics"))
    logits = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert compute_metrics(EvalPrediction(logits, np.array([0, 0])))["accuracy"] == 0.5


def test_scores_by_class_are_scikit_learns():
    draws = np.random.default_rng(0)
    logits, labels = draws.normal(size=(40, 3)), draws.integers(0, 3, 40)
    report = sklearn.classification_report(labels, logits.argmax(-1), output_dict=True, zero_division=0)
    for label, found in enumerate(score(logits, labels)["by_class"]):
        expected = report[str(label)]
        assert found == {
            **{key: expected[key] for key in ("precision", "recall", "support")},
            "f1": expected["f1-score"],
        }


def test_f1_is_the_mean_over_the_labels_that_are_shown():
    """Also over one that neither occurs nor is answered."""
    logits, labels = np.eye(3)[[0, 0, 1, 1]], np.array([0, 0, 1, 0])
    scores = score(logits, labels)
    assert scores["f1"] == pytest.approx(np.mean([each["f1"] for each in scores["by_class"]]))
    assert scores["f1"] < 0.6
