import json
import warnings

import numpy as np
import pytest
from transformers import EvalPrediction

from recipe.command_line.combinations import OF_SCORES
from recipe.evaluation.answers import Answers
from recipe.evaluation.metrics import compute_metrics, headline, score
from recipe.evaluation.predictions import prediction_lines
from recipe.evaluation.regression import correlation, correlation_interval, order_gap


def made(count=300, seed=0):
    """Labels from 0 to 5, many of them equal, and scores that follow them."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, 26, count) / 5
    return (labels + draws.normal(size=count)).astype(np.float32)[:, None], labels.astype(np.float32)


def ranks(values):
    """From 1, equal ones the mean of theirs."""
    return np.array([(values < each).sum() + ((values == each).sum() + 1) / 2 for each in values])


def brute_correlation(first, second):
    first, second = first - first.mean(), second - second.mean()
    return (first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum())


def test_scores_are_those_of_the_formulas():
    logits, labels = made()
    scores, true = logits[:, 0].astype(float), labels.astype(float)
    found = score(logits, labels)
    assert found["pearson"] == pytest.approx(brute_correlation(scores, true))
    assert found["spearman"] == pytest.approx(brute_correlation(ranks(scores), ranks(true)))
    assert found["mse"] == found["loss"] == pytest.approx(np.mean((scores - true) ** 2))
    assert found["mae"] == pytest.approx(np.mean(np.abs(scores - true)))
    assert headline(found) == ("pearson", "Pearson")
    json.dumps(found)


def test_each_evaluation_gives_every_metric_that_may_choose_the_best_model():
    logits, labels = made()
    found = compute_metrics(EvalPrediction(predictions=logits, label_ids=labels))
    assert found.keys() == OF_SCORES.keys()
    assert {name: score(logits, labels)[name] for name in found} == found


def test_the_interval_is_the_bootstraps():
    logits, labels = made(2000, 3)
    found = score(logits, labels)
    draws, some = np.random.default_rng(4), []
    for _ in range(1000):
        places = draws.integers(2000, size=2000)
        some.append(brute_correlation(logits[places, 0].astype(float), labels[places].astype(float)))
    expected = np.quantile(some, (0.025, 0.975))
    assert [found["pearson_low"], found["pearson_high"]] == pytest.approx(expected, abs=0.01)
    assert correlation_interval(0.5, 3) == (-1.0, 1.0)
    assert correlation_interval(1.0, 30) == (1.0, 1.0)


@pytest.mark.parametrize("rank", [False, True])
def test_what_is_constant_has_no_correlation_and_no_warning(rank):
    one, other = np.full(5, 2.5), np.arange(5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for first, second in ((one, other), (other, one), (one, one), (other[:1], other[:1])):
            assert correlation(first, second, rank) is None
        assert correlation(other, -other, rank) == pytest.approx(-1)
        found = score(np.full((4, 1), 3.0), np.arange(4.0))
        logged = compute_metrics(EvalPrediction(predictions=np.full((4, 1), 3.0), label_ids=np.arange(4.0)))
    undefined = {name for name, value in found.items() if value is None}
    assert undefined == {"pearson", "spearman", "pearson_low", "pearson_high"}
    assert found["mse"] == 3.5
    assert (logged["pearson"], logged["spearman"]) == (None, None)


def test_both_orders_of_scores():
    scores, swapped, labels = np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.0, 2.0]), np.array([0.0, 1.0, 2.0])
    found = order_gap(scores, swapped, labels)
    assert found["order_gap"] == pytest.approx(0.5)
    assert found["both_orders_pearson"] == pytest.approx(brute_correlation((scores + swapped) / 2, labels))


def test_a_line_has_the_score_as_the_data_show_it():
    pairs = {
        "id": [None, '"q"'],
        "sentence1": ["a", "b"],
        "sentence2": ["c", None],
        "label": [float(np.float32(3.8)), -100.0],
    }
    answers = Answers(np.array([[4.0625], [-0.5]], dtype=np.float32), np.float32([3.8, -100]), 1.0)
    assert [json.loads(line) for line in prediction_lines(pairs, answers, ["score"])] == [
        {"sentence1": "a", "sentence2": "c", "label": 3.8, "prediction": 4.0625},
        {"id": "q", "sentence1": "b", "label": None, "prediction": -0.5},
    ]
