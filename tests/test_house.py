"""The house: folders in a one-way order, rooms that one can see through, and a README that shows all of them."""

import ast
import re
import subprocess
import sys

import pytest

from tests.utils import ROOT

# Each imports from those on its left only; the modules beside the folders may be imported by all.
ORDER = (
    *("process", "system", "rows", "data", "batches", "model", "evaluation", "cache", "checkpoints"),
    *("training", "reporting", "command_line", "commands", "studies", "tuning", "serving"),
)
BESIDE = {"arguments", "training_arguments", "training_fields", "errors", "file_names", "internals"}
MODULES = sorted((ROOT / "recipe").rglob("*.py"))


def imports(path):
    """The modules of the recipe that a module imports, as tuples of their parts."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "recipe":
            parts = node.module.split(".")[1:]
            found |= {(*parts, alias.name) if len(parts) < 2 else tuple(parts) for alias in node.names}
    return found


@pytest.mark.parametrize("folder", ORDER)
def test_imports_run_one_way(folder):
    right = ORDER[ORDER.index(folder) + 1 :]
    wrong = {
        f"{path.relative_to(ROOT)} imports {'.'.join(parts)}"
        for path in (ROOT / "recipe" / folder).glob("*.py")
        for parts in imports(path)
        if parts[0] in right or parts[0] == "run"
    }
    assert wrong == set()


def test_every_module_has_its_place():
    folders = {path.name for path in (ROOT / "recipe").iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert folders == set(ORDER)
    assert {path.stem for path in (ROOT / "recipe").glob("*.py")} == BESIDE | {"run", "__init__"}


def test_no_folder_module_or_function_is_too_long():
    for folder in (*ORDER, "."):
        assert len(list((ROOT / "recipe" / folder).glob("[!_]*.py"))) <= 8, folder
    for path in MODULES:
        text = path.read_text()
        assert text.count("\n") <= 200, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 45, f"{path}: {node.name}"
    assert (ROOT / "run_freeze.py").read_text().count("\n") <= 60


def test_nothing_heavy_at_import():
    code = "import recipe, sys; sys.exit(bool({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_answers_need_neither_cache_nor_checkpoints():
    reached, left = set(), [("evaluation", "answers")]
    while left:
        parts = left.pop()
        path = ROOT.joinpath("recipe", *parts).with_suffix(".py")
        if parts not in reached and path.exists():
            reached.add(parts)
            left += imports(path)
    assert ("batches", "tokens") in reached
    assert not {parts[0] for parts in reached} & {"cache", "checkpoints", "training"}


def test_the_readme_shows_every_folder():
    tree = re.search(r"## The code\n.*?```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    shown = dict(re.findall(r"^  (\w[\w ]*?)/? {2,}(\w.*)$", tree, re.MULTILINE))
    assert set(shown.pop("beside them").split(", ")) == BESIDE | {"run"}
    assert tuple(shown) == ORDER
