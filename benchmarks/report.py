"""Ratios, table and chart of a benchmark's results."""

import os
from pathlib import Path
from typing import Any

EPOCHS, BATCH = 3, 32


def three_epochs(system: dict[str, Any], train_pairs: int, eval_pairs: int, encode_seconds: float) -> float:
    """Seconds of a whole run after imports: encoding, then three epochs of steps, each with an evaluation."""
    steps = -(-train_pairs // BATCH)
    each = steps * system["step_seconds"] + eval_pairs * system["eval_seconds_a_pair"]
    return encode_seconds + EPOCHS * each


def ratios(
    systems: dict[str, Any], encoding: dict[str, float], ceiling: dict[str, float], tokens: int, train: int, held: int
) -> dict[str, Any]:
    """What the recipe gains on each peer; `systems` also get their three epochs, in seconds."""
    encode_seconds = tokens / max(encoding["float32"], encoding["bfloat16"])
    for letter, system in systems.items():
        system["encode_seconds"] = encode_seconds if letter == "g" else 0.0
        system["three_epochs_seconds"] = three_epochs(system, train, held, system["encode_seconds"])
    result: dict[str, Any] = {"encoding": {n: encoding[n] / encoding["stock float32"] for n in ("float32", "bfloat16")}}
    if "share" in ceiling:
        result["ceiling"] = ceiling["share"]
    peers = [letter for letter in "abcdef" if letter in systems]
    if "h" in systems:
        found = systems["h"]
        result["step"] = {peer: systems[peer]["step_seconds"] / found["step_seconds"] for peer in peers}
        result["memory"] = {peer: found["anonymous"] / systems[peer]["anonymous"] for peer in peers}
    for name, letter in (("three_epochs_cold", "g"), ("three_epochs_found", "h")):
        if letter in systems:
            mine = systems[letter]["three_epochs_seconds"]
            result[name] = {peer: systems[peer]["three_epochs_seconds"] / mine for peer in peers}
    return result


def print_table(content: dict[str, Any], names: dict[str, str]) -> None:
    """The results on the screen, as a Markdown table."""
    print("\n| | system | s a step | encoding, min | three epochs, min | peak memory, GB | GPU, GB |")
    print("|---|---|---|---|---|---|---|")
    for letter, system in content["systems"].items():
        minutes = [system[key] / 60 for key in ("encode_seconds", "three_epochs_seconds")]
        memory = [system[key] / 1e9 for key in ("anonymous", "gpu")]
        numbers = f"{minutes[0]:.1f} | {minutes[1]:.1f} | {memory[0]:.2f} | {memory[1]:.2f}"
        print(f"| {letter} | {names[letter]} | {system['step_seconds']:.3f} | {numbers} |")
    for name, values in content["ratios"].items():
        if isinstance(values, dict):
            print(f"{name:<20}" + "  ".join(f"{key} {value:.2f}x" for key, value in values.items()))
        else:
            print(f"{name:<20}{values:.0%} of the measured matrix-product rate")
    print(f"measured in {content['seconds']} s on {content['machine']['device']}")


def draw(content: dict[str, Any], names: dict[str, str], path: Path) -> None:
    """A bar chart of three epochs, encoding apart from training."""
    os.environ["MPLBACKEND"] = "Agg"  # whatever a notebook has set
    from matplotlib import pyplot

    systems = content["systems"]
    labels = [names[letter] for letter in systems]
    encoding = [system["encode_seconds"] / 60 for system in systems.values()]
    training = [
        system["three_epochs_seconds"] / 60 - first for system, first in zip(systems.values(), encoding, strict=True)
    ]
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(labels) + 1.2), layout="constrained")
    axes.barh(labels, encoding, color="#dd8452", label="encoding, once")
    bars = axes.barh(labels, training, left=encoding, color="#4c72b0", label="three epochs")
    axes.bar_label(bars, [f" {first + rest:.0f}" for first, rest in zip(encoding, training, strict=True)])
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.set_xlabel(f"minutes for three epochs of AFQMC at batch {BATCH}, BERT-base ({content['machine']['device']})")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=120)
