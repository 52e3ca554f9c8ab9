import os
import re
import shlex
import subprocess
import tomllib

import pytest
from accelerate.commands.config import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from tests.launching import CONFIGS
from tests.utils import ROOT

PINS = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def test_constraints_pin_everything_that_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    names = {re.match(r"[A-Za-z0-9_.-]+", line)[0].lower().replace("_", "-") for line in asked}
    names.remove("freeze-recipe")  # the dev extra is made of the others
    assert names <= {name.lower().replace("_", "-") for name in PINS}


def test_torch_is_pinned_to_what_finds_a_cpu_wheel():
    assert PINS["torch"] == "2.13.0"
    assert not any(name.startswith("nvidia") for name in PINS)


def test_whatever_installs_does_so_at_those_versions():
    """The dependencies alone would let pip take a torch that brings CUDA."""
    told = [ROOT / name for name in ("Makefile", "README.md", "README.zh-CN.md", "CONTRIBUTING.md", ".ci/run")]
    told += [path for name in ("docs", "notebooks", "recipe", ".github") for path in (ROOT / name).rglob("*.*")]
    texts = [path.read_text(encoding="utf-8") for path in told if path.suffix not in (".png", ".pyc")]
    lines = [line for text in texts for line in text.splitlines() if re.search(r"pip\S* install", line)]
    assert len(lines) > 10
    assert [line for line in lines if not re.search(r" (-c|--constraint) constraints\.txt ", line)] == []


def test_every_target_of_the_readme_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text())) - {"and"} <= targets


ODD = """it's "a" run (1); echo $HOME `id` & 问句*"""


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("eval RUN='my run' AGAINST=other", ["--do_eval", "--model_name_or_path", "my run", "--against", "other"]),
        (f"eval RUN={shlex.quote(ODD)}", ["--do_eval", "--model_name_or_path", ODD]),
        (f"app SPACE={shlex.quote(ODD)}", ["--space", ODD]),
        ("predict RUN='my run'", ["--do_predict", "--model_name_or_path", "my run"]),
        ("export RUN='my run'", ["--model_name_or_path", "my run"]),
        ("app RUN='my run' SPACE='my space'", ["--model_name_or_path", "my run", "--space", "my space"]),
        ("eval", ["--do_eval"]),
    ],
)
def test_a_target_takes_a_folder_with_whatever_in_its_name(words, flags):
    command = last_command(words)
    assert command[next(place for place, word in enumerate(command) if word.startswith("--")) :] == flags


@pytest.mark.parametrize("target", ["sweep", "tune", "audit", "check-data"])
@pytest.mark.parametrize("name", ["my configs/a b.yaml", ODD, ""])
def test_a_target_takes_a_config_with_whatever_in_its_name(target, name):
    command = last_command(f"{target} CONFIG={shlex.quote(name)}")
    assert command[3] == name


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ("", ["--depths", "8", "10", "11", "12"]),
        ("DEPTHS='0 4' SEEDS='1 2'", ["--depths", "0", "4", "--seeds", "1", "2"]),
        ("""OVER='freeze_layers="0-5,8",0-9 seed=1'""", ['--over=freeze_layers="0-5,8",0-9 seed=1']),
        (r"OVER='unfreeze_modules=(query|key)\.bias$'", [r"--over=unfreeze_modules=(query|key)\.bias$"]),
    ],
)
def test_a_sweep_gets_its_settings_as_they_are_typed(words, flags):
    assert last_command(f"sweep {words}")[4:] == flags


def last_command(words):
    """The words of the last command that make would run, as its shell parts them."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    asked = ["make", "-n", *shlex.split(words)]  # under `make test` too
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True, env=alone)
    shown = subprocess.run(
        ["sh", "-c", rf"printf '%s\n' {done.stdout.splitlines()[-1]}"], capture_output=True, text=True, check=True
    )
    return shown.stdout.splitlines()


def bash_commands(name):
    """The commands of a README, without what is said of them."""
    blocks = re.findall(r"```(?:bash|console)\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line).removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("python", "make", "accelerate"))]


def test_the_chinese_readme_has_the_same_commands():
    without_mirror = [line for line in bash_commands("README.zh-CN.md") if not line.startswith("HF_ENDPOINT")]
    assert without_mirror == bash_commands("README.md")


def test_every_flag_and_module_of_the_readmes_exists():
    from recipe.command_line.parsing import build_parser
    from recipe.serving import app
    from recipe.studies import audit, sweep

    parsers = (build_parser(), sweep.build_parser(), audit.build_parser(), app.build_parser())
    flags = {"--trials", "--split", *(flag for parser in parsers for flag in parser._option_string_actions)}
    flags |= set(launch_command_parser()._option_string_actions) | {
        "--nproc_per_node",
        "--type",
    }  # torchrun's, hf upload's
    for name in ["README.md", "README.zh-CN.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]:
        text = (ROOT / name).read_text()
        assert set(re.findall(r"(?<![\w-])--[a-z_0-9]+", text)) <= flags
        for module in re.findall(r"python -m (recipe[\w.]+)", text):
            assert (ROOT / (module.replace(".", "/") + ".py")).exists()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_each_configuration(path):
    config = load_config_from_file(str(path))
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED"}
    assert config.distributed_type == kinds[path.stem]
    assert config.num_processes == 2
    assert path.read_text().count("run_freeze.py configs/afqmc.yaml") == 1
    if path.stem != "ddp":
        assert "NOT RUN ON GPUs" in path.read_text()
