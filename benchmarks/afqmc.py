#!/usr/bin/env python3
"""What freezing costs on AFQMC: the points of sweeps as data (afqmc.json), and the table and figure made from them.

python -m benchmarks.afqmc add "INT8-dequantised BERT-base-zh" outputs/sweep    # a sweep's points, old ones kept
python -m benchmarks.afqmc add "..." outputs/other --name "first 3 layers"      # named so before its flags
python -m benchmarks.afqmc                                                      # docs/accuracy.md's table, accuracy.png
"""

import argparse
import base64
import json
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np

from recipe.studies.pareto import draw_sweep
from recipe.studies.points import PREDICTIONS, RESULTS
from recipe.studies.summary import Row, format_table, reference_of

HERE = Path(__file__).parent
DATA, FIGURE = HERE / "afqmc.json", HERE / "accuracy.png"
PAIRS = 4316  # of the validation split
REPORTED = 42  # the first seed that is
SEVERAL = 3  # seeds that a setting needs for others to be compared with it


def machine() -> str:
    """The processor's name, as Linux has it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def add(model: str, folder: Path, name: str | None) -> None:
    """Put a sweep's points into afqmc.json; a point that is there already is replaced.

    Args:
        name: of what their flags do not tell, such as a part of the model.
    """
    content = json.loads(DATA.read_text()) if DATA.exists() else {"majority": None, "points": []}
    record = json.loads((folder / RESULTS).read_text())
    if record["majority"] is not None:  # of a sweep that was stopped it is not known yet
        content["majority"] = record["majority"]
    points = {(each["key"], each["seed"]): each for each in content["points"]}
    for point in record["points"]:
        (path,) = (folder / PREDICTIONS).glob(f"*-{point['key'][:8]}-seed-{point['seed']}.npz")
        with np.load(path) as found:
            right = found["probabilities"].argmax(-1) == found["labels"]
        assert len(right) == PAIRS, f"{path}: {len(right)} pairs, which is not AFQMC's validation split"
        packed = base64.b64encode(np.packbits(right).tobytes()).decode()
        points[point["key"], point["seed"]] = {
            "model": model,
            "name": name,
            "machine": machine(),
            **point,
            "right": packed,
        }
    content["points"] = list(points.values())
    lines = ",\n".join(json.dumps(point) for point in content["points"])
    DATA.write_text(f'{{"majority": {json.dumps(content["majority"])}, "points": [\n{lines}\n]}}\n')


def rows_of(points: list[dict[str, Any]]) -> list[Row]:
    """The settings of one model, those with the most trained parameters first."""
    parted: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        flags = [f"{flag}={value}" for flag, value in point["setting"].items()]
        parted.setdefault(" ".join([*filter(None, [point.get("name")]), *flags]), []).append(point)
    rows = []
    for name, here in parted.items():
        right = {
            point["seed"]: np.unpackbits(np.frombuffer(base64.b64decode(point["right"]), np.uint8))[:PAIRS].astype(bool)
            for point in here
        }
        rows.append(Row(name, {point["seed"]: point for point in here}, right))
    return sorted(rows, key=lambda row: (-row.mean("trainable_parameters"), row.name))


def by_types(rows: list[Row]) -> list[list[Row]]:
    """The rows of each setting, that in bfloat16 first, those in float32 behind it."""
    parted: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: "bf16=false" in row.name):
        parted.setdefault(_without_types(row), []).append(row)
    return [parted[name] for name in dict.fromkeys(map(_without_types, rows))]


def _without_types(row: Row) -> str:
    return re.sub(r" (bf16|prefix_compute_dtype)=\w+", "", row.name)


def shortened(name: str) -> str:
    """A setting's name without its flags' names: "0-7 1e-4, 2 tails"."""
    return re.sub(r"\b\w+=", "", re.sub(r" num_tails=(\d+)", r", \1 tails", name))


def best_of_several(rows: list[Row]) -> Row:
    """The best setting that was run with several seeds: against one of a single seed no difference has an interval."""
    return reference_of([row for row in rows if len(row.points) >= SEVERAL] or rows, "best")


def show() -> None:
    """Print a table a model, one of each setting in both types, and draw the figure of the first model."""
    content = json.loads(DATA.read_text())
    models = list(dict.fromkeys(point["model"] for point in content["points"]))
    for number, model in enumerate(models):
        points = [point for point in content["points"] if point["model"] == model]
        parted = by_types(rows_of([point for point in points if point["seed"] >= REPORTED]))
        rows = [each[0] for each in parted]
        print(f"{model}\n\n{format_table(rows, best_of_several(rows))}\n")
        for each in parted:
            if len(each) > 1:
                print(f"{format_table(each, reference_of(each, 'first'))}\n")
        for row in rows_of([point for point in points if point["seed"] < REPORTED]):
            print(
                f"{row.name}: loss {row.mean('loss'):.4f}, accuracy {row.mean('accuracy'):.2f}, seeds {[*row.points]}"
            )
        if number == 0:
            draw_sweep([row._replace(name=shortened(row.name)) for row in rows], content["majority"], FIGURE)


def main() -> None:
    """Add points, or show those that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=["add", "show"], default="show")
    parser.add_argument("model", nargs="?", help="which weights these are")
    parser.add_argument("folder", nargs="?", type=Path, help="a sweep's output_dir")
    parser.add_argument("--name", help="what its flags do not tell, such as a part of the model")
    args = parser.parse_args()
    if args.action == "add":
        if args.folder is None:
            parser.error("add: MODEL and FOLDER are expected, which weights these are and the sweep's output_dir")
        add(args.model, args.folder, args.name)
    else:
        show()


if __name__ == "__main__":
    main()
