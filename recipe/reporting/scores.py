"""A saved model's scores in words."""

from typing import Any

import numpy as np

from recipe.arguments import ModelArguments
from recipe.data.pairs import UNLABELLED
from recipe.evaluation.comparing import mcnemar, mean_difference
from recipe.evaluation.metrics import by_name, decimals
from recipe.evaluation.regression import correlation
from recipe.process.text import shown


def format_evaluation(metrics: dict[str, Any], model: ModelArguments, names: list[str]) -> str:
    """The table of a saved model's scores; of classes with the confusion matrix."""
    scores = by_name(metrics)
    limit = f"; {scores['limit']}" if "limit" in scores else ""
    rows = [
        ("model", model.model_name_or_path),
        (scores["unit"], f"{scores['rows']:,} of {scores['source']} ({scores['split']}){limit}"),
        *(_correlation_rows(scores) if "pearson" in scores else _class_rows(scores)),
    ]
    if "samples_per_second" in scores:
        rows.append(("speed", f"{scores['samples_per_second']:,.0f} {scores['unit']} a second"))
    lines = [f"{key:<15} {shown(str(value))}" for key, value in rows]
    return "\n".join([*lines, *([] if "pearson" in scores else _confusion(scores, names))])


def _correlation_rows(scores: dict[str, Any]) -> list[tuple[str, str]]:
    beside = f"95 % interval {decimals(scores['pearson_low'])} to {decimals(scores['pearson_high'])}"
    if scores["pearson"] is None:
        beside = "the scores or the labels are constant"
    rows = [
        ("Pearson", f"{decimals(scores['pearson'])}  ({beside})"),
        ("Spearman", decimals(scores["spearman"])),
        ("MSE", f"{scores['mse']:.4f}"),
        ("MAE", f"{scores['mae']:.4f}"),
    ]
    if "order_gap" in scores:
        moved = f"scores differ by {scores['order_gap']:.4f} on average with the sentences swapped"
        rows.append(("both orders", f"{moved}; the mean of both has Pearson {decimals(scores['both_orders_pearson'])}"))
    if "compared" in scores:
        other = scores["compared"]
        rows.append(("against", f"{other['against']}: Pearson {decimals(other['pearson'])}, MSE {other['mse']:.4f}"))
        gain = f"{other['difference']:+.4f} of MSE, less is better"
        rows.append(("difference", f"{gain} ({_interval(other, 1, '+.4f')})"))
    return rows


def _class_rows(scores: dict[str, Any]) -> list[tuple[str, str]]:
    interval = f"95 % interval {scores['accuracy_low']:.4f} to {scores['accuracy_high']:.4f}"
    return [
        ("accuracy", f"{scores['accuracy']:.4f}  ({interval})"),
        ("majority", f"{scores['majority_baseline']:.4f}{_verdict(scores)}"),
        ("loss", f"{scores['loss']:.4f}"),
        ("F1", f"{scores['f1']:.4f}"),
        ("MCC", f"{scores['mcc']:.4f}"),
        ("ROC AUC", decimals(scores["roc_auc"])),
        ("avg precision", decimals(scores["average_precision"])),
        ("calibration", f"{scores['ece']:.4f} expected error"),
        *_orders_row(scores),
        *_threshold_row(scores),
        *_against_row(scores),
    ]


LONGEST = 30  # characters of a label's name in the table


def _confusion(scores: dict[str, Any], names: list[str]) -> list[str]:
    names = [shown(name) for name in names]
    told: list[str] = []
    if max(map(len, names)) > LONGEST:
        numbered = [f"label {number}" for number in range(len(names))]
        told, names = [f"{'':<16}{one}: {name}" for one, name in zip(numbered, names, strict=True)], numbered
    head = ["answered", *names, "precision", "recall", "F1"]
    wide = max(10, 1 + max(map(len, names)))
    lines = ["confusion       " + "".join(f"{name:>{wide}}" for name in head)]
    for name, row, of in zip(names, scores["confusion_matrix"], scores["by_class"], strict=True):
        by_class = "".join(f"{of[key]:>{wide}.4f}" for key in ("precision", "recall", "f1"))
        lines.append(f"{'':<16}{name:>{wide}}" + "".join(f"{count:>{wide},}" for count in row) + by_class)
    return lines + told


def _orders_row(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """Of pairs."""
    if "order_consistency" not in scores:
        return []
    same = f"{scores['order_consistency']:.4f} of the pairs are answered alike with the sentences swapped"
    return [("both orders", f"{same}; the mean of both orders gets {scores['both_orders_accuracy']:.4f}")]


def _verdict(scores: dict[str, Any]) -> str:
    if scores["accuracy"] <= scores["majority_baseline"]:
        return "  the model does NOT beat it"
    test = f"  (McNemar p = {scores['majority_p_value']:.3g} on the same {scores['unit']})"
    return test if scores["majority_p_value"] < 0.05 else f"{test}: the model is not shown to beat it"


def _threshold_row(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """Accuracy at a threshold other than 0.5, where it is a score, or said to be none."""
    if "validation_threshold" in scores:
        at, threshold = scores["accuracy_at_validation_threshold"], scores["validation_threshold"]
        return [("threshold", f"{at:.4f} at {format_threshold(threshold)}, which validation chose")]
    if scores["split"] == "validation" and "best_threshold" in scores:
        at, threshold = scores["accuracy_at_best_threshold"], scores["best_threshold"]
        chosen = f"chosen on these very {scores['unit']}; all else is at 0.5"
        return [("threshold", f"{at:.4f} at {format_threshold(threshold)}, {chosen}")]
    return []


def format_threshold(value: float) -> str:
    """A probability from which on label 1 is answered."""
    return "above 1 (label 1 is never answered)" if value > 1 else f"{value:.3f}"


def _against_row(scores: dict[str, Any]) -> list[tuple[str, str]]:
    if "mcnemar" not in scores:
        return []
    test = scores["mcnemar"]
    alone = f"right alone {test['only_first_right']:,} : {test['only_second_right']:,}"
    gain = f"{100 * test['difference']:+.2f} points ({_interval(test, 100, '+.2f')})"
    return [
        ("against", f"{test['against']}: {test['accuracy']:.4f}; {alone}; McNemar p = {test['p_value']:.3g}"),
        ("difference", gain),
    ]


def _interval(gain: dict[str, Any], scale: float, form: str) -> str:
    """A difference's 95 % interval, which takes pairs that differ."""
    if gain["difference_low"] is None:
        return "no interval: the same on every pair"
    return "95 % interval " + " to ".join(format(scale * gain[f"difference_{end}"], form) for end in ("low", "high"))


def format_int8(full: np.ndarray, int8: np.ndarray, labels: np.ndarray, unit: str) -> str:
    """Whether an 8-bit model is another than float32's: from both logits (rows, labels), and labels (rows,)."""
    unlabelled = bool((labels == UNLABELLED).any())
    found = _apart if full.shape[1] == 1 else _alike if unlabelled else _accuracies
    told = found(full, int8, labels, unit)
    return f"8 bits          {told}{'; they have no labels, so that is all' * unlabelled}"


def _alike(full: np.ndarray, int8: np.ndarray, labels: np.ndarray, unit: str) -> str:
    return f"{(full.argmax(-1) == int8.argmax(-1)).mean():.4f} of the {unit} are answered alike"


def _accuracies(full: np.ndarray, int8: np.ndarray, labels: np.ndarray, unit: str) -> str:
    rights = [each.argmax(-1) == labels for each in (int8, full)]
    test, gain = mcnemar(*rights), mean_difference(*rights)
    verdict = "it IS another model" if test["p_value"] < 0.05 else "no difference is shown"
    points = f"{100 * gain['difference']:+.2f} points ({_interval(gain, 100, '+.2f')})"
    return (
        f"accuracy {rights[0].mean():.4f}, float32 {rights[1].mean():.4f} on {len(labels):,} {unit}: "
        f"{points}, McNemar p = {test['p_value']:.3g}: {verdict}"
    )


def _apart(full: np.ndarray, int8: np.ndarray, labels: np.ndarray, unit: str) -> str:
    """How far the scores of the two are apart and, where there are labels, what each of them gets."""
    apart = f"scores differ by {np.abs(full - int8).mean():.4f} on average over {len(labels):,} {unit}"
    if (labels == UNLABELLED).any():
        return apart
    mine, theirs = (correlation(each[:, 0], labels) for each in (int8, full))
    return f"Pearson {decimals(mine)}, float32 {decimals(theirs)}; {apart}"
