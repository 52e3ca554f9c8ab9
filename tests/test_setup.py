import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINS = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def test_constraints_pin_everything_that_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = {re.match(r"[A-Za-z0-9_.-]+", line)[0].lower().replace("_", "-") for line in asked}
    assert names <= {name.lower().replace("_", "-") for name in PINS}


def test_torch_is_pinned_to_what_finds_a_cpu_wheel():
    assert PINS["torch"] == "2.13.0"
    assert not any(name.startswith("nvidia") for name in PINS)


def test_every_target_of_the_readme_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text())) - {"and"} <= targets
