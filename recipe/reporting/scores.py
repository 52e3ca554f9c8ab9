"""A saved model's scores in words."""

from typing import Any

from recipe.arguments import ModelArguments
from recipe.evaluation.metrics import by_name
from recipe.process.text import shown


def format_evaluation(metrics: dict[str, Any], model: ModelArguments, names: list[str]) -> str:
    """The table of a saved model's scores."""
    scores = by_name(metrics)
    counts = scores["confusion_matrix"]
    interval = f"95 % interval {scores['accuracy_low']:.4f} to {scores['accuracy_high']:.4f}"
    rows = [
        ("model", model.model_name_or_path),
        ("pairs", f"{sum(map(sum, counts)):,} of {scores['source']} ({scores['split']})"),
        ("accuracy", f"{scores['accuracy']:.4f}  ({interval})"),
        ("majority", f"{scores['majority_baseline']:.4f}{_verdict(scores)}"),
        ("loss", f"{scores['loss']:.4f}"),
        ("F1", f"{scores['f1']:.4f}"),
        ("MCC", f"{scores['mcc']:.4f}"),
        ("ROC AUC", _number(scores["roc_auc"])),
        ("avg precision", _number(scores["average_precision"])),
        ("calibration", f"{scores['ece']:.4f} expected error"),
        *_orders_row(scores),
        *_threshold_row(scores),
        *_against_row(scores),
        ("speed", f"{scores['samples_per_second']:,.0f} pairs a second"),
    ]
    lines = [f"{key:<15} {shown(str(value))}" for key, value in rows]
    names = [shown(name) for name in names]
    head = ["answered", *names, "precision", "recall", "F1"]
    lines.append("confusion       " + "".join(f"{name:>10.10}" for name in head))
    for name, row, of in zip(names, counts, scores["by_class"], strict=True):
        by_class = "".join(f"{of[key]:>10.4f}" for key in ("precision", "recall", "f1"))
        lines.append(f"{'':<16}{name:>10.10}" + "".join(f"{count:>10,}" for count in row) + by_class)
    return "\n".join(lines)


def _orders_row(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """Of pairs."""
    if "order_consistency" not in scores:
        return []
    same = f"{scores['order_consistency']:.4f} of the pairs are answered alike with the sentences swapped"
    return [("both orders", f"{same}; the mean of both orders gets {scores['both_orders_accuracy']:.4f}")]


def _verdict(scores: dict[str, Any]) -> str:
    if scores["accuracy"] <= scores["majority_baseline"]:
        return "  the model does NOT beat it"
    test = f"  (McNemar p = {scores['majority_p_value']:.3g} on the same pairs)"
    return test if scores["majority_p_value"] < 0.05 else f"{test}: the model is not shown to beat it"


def _threshold_row(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """Accuracy at a threshold other than 0.5, where it is a score, or said to be none."""
    if "validation_threshold" in scores:
        at, threshold = scores["accuracy_at_validation_threshold"], scores["validation_threshold"]
        return [("threshold", f"{at:.4f} at {format_threshold(threshold)}, which validation chose")]
    if scores["split"] == "validation" and "best_threshold" in scores:
        at, threshold = scores["accuracy_at_best_threshold"], scores["best_threshold"]
        return [
            ("threshold", f"{at:.4f} at {format_threshold(threshold)}, chosen on these very pairs; all else is at 0.5")
        ]
    return []


def format_threshold(value: float) -> str:
    """A probability from which on label 1 is answered."""
    return "above 1 (label 1 is never answered)" if value > 1 else f"{value:.3f}"


def _against_row(scores: dict[str, Any]) -> list[tuple[str, str]]:
    if "mcnemar" not in scores:
        return []
    test = scores["mcnemar"]
    alone = f"right alone {test['only_first_right']:,} : {test['only_second_right']:,}"
    points, low, high = (100 * test[key] for key in ("difference", "difference_low", "difference_high"))
    gain = f"{points:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})"
    return [
        ("against", f"{test['against']}: {test['accuracy']:.4f}; {alone}; McNemar p = {test['p_value']:.3g}"),
        ("difference", gain),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
