"""Ratios, targets and table of a benchmark's results."""

from dataclasses import dataclass
from typing import Any

from benchmarks.rows import BATCH, ROWS

EPOCHS = 3


@dataclass(frozen=True)
class Target:
    """How many times less than `peer` `mine` is to take, of steps or of three epochs."""

    mine: str
    peer: str
    least: float
    key: str = "step_seconds"

    def __str__(self) -> str:
        what = "a step" if self.key == "step_seconds" else f"{EPOCHS} epochs"
        return f"{what} of {self.mine} ({ROWS[self.mine].name}) against {self.peer} ({ROWS[self.peer].name})"


EPOCHS_KEY = "three_epochs_seconds"
TARGETS = (
    Target("h16", "c", 26),
    Target("h16", "c16", 9),
    Target("h16", "d16", 4.5),
    Target("h16", "b", 60),
    Target("h16", "b16", 24),
    Target("h16", "c16", 9, EPOCHS_KEY),
    Target("g16", "c16", 5, EPOCHS_KEY),
    Target("g16", "i16", 1.2, EPOCHS_KEY),
)
LEAST_SHARE = {"bfloat16": 0.55}


def three_epochs(system: dict[str, Any], train_pairs: int, eval_pairs: int, encode_seconds: float) -> float:
    """Seconds of a whole run after imports: encoding, then three epochs of steps, each with an evaluation."""
    steps = -(-train_pairs // BATCH)
    each = steps * system["step_seconds"] + eval_pairs * system["eval_seconds_a_pair"]
    return encode_seconds + EPOCHS * each


def compare(content: dict[str, Any], train: list[int], held: list[int]) -> dict[str, Any]:
    """The ratios and the targets; `content`'s systems also get their three epochs, in seconds."""
    systems, encoding = content["systems"], content["encoding"]
    types = [name for name in ("float32", "bfloat16") if name in encoding]
    encode_seconds = sum(train + held) / max(encoding[name] for name in types)
    for key, system in systems.items():
        system["encode_seconds"] = encode_seconds if key[0] == "g" else 0.0
        system["three_epochs_seconds"] = three_epochs(system, len(train), len(held), system["encode_seconds"])
    rates = {name: encoding[name] / encoding["stock float32"] for name in types}
    return {"ratios": {"encoding": rates} | _ratios(systems), "targets": _targets(content)}


def _ratios(systems: dict[str, Any]) -> dict[str, Any]:
    """What each system takes beside the recipe in its best type: bfloat16 where it was measured."""
    end = "16" if "h16" in systems or "g16" in systems else ""
    result: dict[str, Any] = {}
    for name, letter, key in (
        ("step", "h", "step_seconds"),
        ("three_epochs_cold", "g", EPOCHS_KEY),
        ("three_epochs_found", "h", EPOCHS_KEY),
        ("memory", "h", "anonymous"),
    ):
        mine = systems.get(letter + end)
        if mine:
            result[name] = {peer: system[key] / mine[key] for peer, system in systems.items() if system is not mine}
    return result


def _targets(content: dict[str, Any]) -> list[dict[str, Any]]:
    systems = content["systems"]
    result = [
        {"what": str(target), "least": target.least, "measured": systems[target.peer][target.key] / mine[target.key]}
        for target in TARGETS
        if (mine := systems.get(target.mine)) and target.peer in systems
    ]
    for name, least in LEAST_SHARE.items():
        if name in content["ceiling"]["share"]:
            what = f"share of the {name} matrix rate that a cached step reaches"
            result.append({"what": what, "least": least, "measured": content["ceiling"]["share"][name]})
    return result


def print_table(content: dict[str, Any]) -> None:
    """The results on the screen, as Markdown tables."""
    ratios = content["ratios"]
    print(
        "\n| | system | type | s a step | encoding, min | three epochs, min | memory, GB | GPU, GB | step | 3 epochs |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for key, system in content["systems"].items():
        minutes = [system[name] / 60 for name in ("encode_seconds", "three_epochs_seconds")]
        memory = [system[name] / 1e9 for name in ("anonymous", "gpu")]
        numbers = f"{minutes[0]:.1f} | {minutes[1]:.1f} | {memory[0]:.2f} | {memory[1]:.2f}"
        beside = [ratios.get(name, {}).get(key) for name in ("step", "three_epochs_found")]
        times = " | ".join(f"{value:.2f}x" if value else "" for value in beside)
        row = ROWS[key]
        print(f"| {key} | {row.method.name} | {row.type} | {system['step_seconds']:.3f} | {numbers} | {times} |")
    for name, values in ratios.items():
        print(f"{name:<20}" + "  ".join(f"{key} {value:.2f}x" for key, value in values.items()))
    for name, share in content["ceiling"]["share"].items():
        rate = content["ceiling"]["matmul_flops_a_second"][name] / 1e9
        print(f"a cached step reaches {share:.0%} of the measured {name} matrix-product rate ({rate:.0f} Gflop/s)")
    if content["targets"]:
        print("\n| against | at least | measured | |\n|---|---|---|---|")
    for target in content["targets"]:
        least, measured = target["least"], target["measured"]
        numbers = f"{least:.0%} | {measured:.0%}" if least < 1 else f"{least:g}x | {measured:.2f}x"
        print(f"| {target['what']} | {numbers} | {'met' if measured >= least else 'missed'} |")
    print(f"measured in {content['seconds']} s on {content['machine']['device']}")
