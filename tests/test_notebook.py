"""The notebook, its code cells run in order in a process and a folder of their own, by the embedded model's like."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.utils import ROOT

CELLS = json.loads((ROOT / "notebooks" / "afqmc.ipynb").read_text(encoding="utf-8"))["cells"]
# What a kernel has and Python has not: pictures, and `!` before a command for the shell, in which {name} is a variable.
# Its process is forked from one that has imported what takes seconds.
KERNEL = """import multiprocessing, runpy, shlex, sys
import recipe.run

def run(words):
    module = words[0] == "-m"
    sys.argv = words = words[module:]
    runpy.run_module(words[0], None, "__main__", True) if module else runpy.run_path(words[0], None, "__main__")

def shell(command):
    print("!", command, flush=True)
    python, *words = shlex.split(command)
    assert python == sys.executable
    process = multiprocessing.get_context("fork").Process(target=run, args=[words])
    process.start()
    process.join()
    assert process.exitcode == 0

def Image(path, width):
    return open(path, "rb").read(4)

display = print
"""


def source(cell):
    return "".join(cell["source"])


def as_python(cell):
    text = source(cell).replace("from IPython.display import Image, display\n", "")
    return re.sub(r"^( *)!(.*)$", r"\1shell(f'''\2''')", text, flags=re.MULTILINE)


@pytest.fixture
def folder(tmp_path, tiny_model, pairs_dir):
    """What a clone has, and a configuration of a small run in place of the Hub's."""
    for name in ("recipe", "run_freeze.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    small = ["freeze_layers: 0-1", "max_length: 32", "num_train_epochs: 1", "use_cpu: true", f"data_dir: {pairs_dir}"]
    small += [f"model_name_or_path: {tiny_model}", f"prefix_cache_dir: {tmp_path / 'cache'}", "prefix_cache: 'off'"]
    (tmp_path / "small.yaml").write_text("\n".join(small))
    return tmp_path


def test_the_cells_run_in_order(folder):
    script = KERNEL + "\n".join(as_python(cell) for cell in CELLS if cell["cell_type"] == "code")
    assert script.count('"outputs/notebook"') == 1
    script = script.replace('"outputs/notebook"', '"a drive/run"')  # on a drive that stays, as the notebook advises
    environment = {**os.environ, "CONFIG": "small.yaml", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.findall(r"^! \S+ (.*)$", done.stdout, re.MULTILINE)
    assert [line.split(" --")[0] for line in ran] == [
        '-m recipe.commands.check_data "small.yaml"',
        'run_freeze.py "small.yaml"',
        *["run_freeze.py"] * 2,
    ]
    assert "next            make eval RUN='a drive/run'" in done.stdout
    assert done.stdout.count("b'\\x89PNG'") == 2
    answers = done.stdout.strip().splitlines()[-2:]
    assert all(re.fullmatch(r"[花借]\S+ \S+ (same|different) 0\.\d+", line) for line in answers)


def test_it_says_all_in_two_languages_and_keeps_no_outputs():
    for cell in CELLS:
        if cell["cell_type"] == "markdown":
            assert re.search("[一-鿿]{4}", source(cell)), source(cell)
            assert re.search(r"([A-Za-z]+[ ,]+){3}", source(cell)), source(cell)
        else:
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert {cell["id"] for cell in CELLS} == {f"cell-{number}" for number in range(len(CELLS))}


def test_its_defaults_are_those_of_the_readme_and_are_there():
    settings = next(source(cell) for cell in CELLS if cell["cell_type"] == "code")
    assert '"configs/afqmc.yaml"' in settings
    named = set(re.findall(r"(?:configs|docs)/[\w.-]+\.\w+", "".join(map(source, CELLS))))
    assert {"configs/afqmc.yaml", "configs/demo.yaml"} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []
