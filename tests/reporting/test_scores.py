import numpy as np

from recipe.arguments import ModelArguments
from recipe.evaluation.comparing import mcnemar, mean_difference
from recipe.evaluation.metrics import score
from recipe.evaluation.regression import full_scores
from recipe.reporting.scores import format_evaluation, format_int8

LOGITS, LABELS = np.eye(3)[[0, 1, 2, 2]], np.array([0, 1, 2, 1])


def told(names, **more):
    scores = score(LOGITS, LABELS) | {"rows": 4, "source": "dev.json", "split": "test", "unit": "pairs"}
    metrics = {f"eval_{key}": value for key, value in (scores | more).items()}
    return format_evaluation(metrics, ModelArguments(model_name_or_path="run"), names).splitlines()


def test_names_that_begin_alike_stay_apart():
    names = ["entailment_weak", "entailment_strong", "none"]
    assert told(names)[-4].split() == ["confusion", "answered", *names, "precision", "recall", "F1"]
    assert [line.split()[0] for line in told(names)[-3:]] == names
    assert len({len(line) for line in told(names)[-4:]}) == 1


def test_names_that_are_too_long_for_a_column_are_numbered():
    names = ["a" * 31, "a" * 31 + "b", "c"]
    lines = told(names)
    assert [line.split()[:2] for line in lines[-6:-3]] == [["label", str(number)] for number in range(3)]
    assert [line.strip() for line in lines[-3:]] == [f"label {number}: {name}" for number, name in enumerate(names)]
    assert told(["0", "1", "2"])[-4].startswith("confusion         answered         0         1")


def test_a_difference_without_spread_has_no_interval():
    right = np.ones(4, bool)
    same = {"against": "other", "accuracy": 1.0} | mcnemar(right, right) | mean_difference(right, right)
    assert "difference      +0.00 points (no interval: the same on every pair)" in told(["0", "1", "2"], mcnemar=same)
    assert "+0.00 points (no interval: the same on every pair), McNemar" in format_int8(LOGITS, LOGITS, LABELS, "pairs")


def test_a_difference_is_told_with_its_interval():
    other = {"against": "other", "accuracy": 0.5} | mcnemar(LABELS > 0, LABELS > 1)
    gain = {"difference": 0.5, "difference_low": 0.25, "difference_high": 0.75}
    row = "difference      +50.00 points (95 % interval +25.00 to +75.00)"
    assert row in told(["0", "1", "2"], mcnemar=other | gain)
    scores = full_scores(np.array([0.5, 1.5, 2.0]), np.array([0.0, 1.0, 3.0]))
    for found, interval in (
        (gain, "95 % interval +0.2500 to +0.7500"),
        (gain | {"difference_low": None}, "no interval: the same on every pair"),
    ):
        compared = {"against": "other", "pearson": 0.5, "mse": 1.0} | found
        row = f"difference      +0.5000 of MSE, less is better ({interval})"
        assert row in told([], compared=compared, **scores)
