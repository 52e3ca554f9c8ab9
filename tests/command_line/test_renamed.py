import dataclasses
import re

import pytest
from transformers import TrainingArguments

from recipe.command_line.parsing import build_parser, parse
from recipe.command_line.renamed import INSTEAD, hint
from recipe.errors import UserError
from recipe.training_fields import REFUSED
from tests.utils import ROOT

KNOWN = build_parser()._option_string_actions


@pytest.mark.parametrize("name", INSTEAD)
def test_what_is_given_in_place_of_a_flag_is_there_and_not_refused(name):
    assert f"--{name}" not in KNOWN
    flags = re.findall(r"--([a-z_0-9]+)", INSTEAD[name])
    assert {f"--{flag}" for flag in flags} <= {*KNOWN, "--config_file"}  # accelerate launch's
    assert not set(flags) & REFUSED.keys()
    for written in (name, f"--{name}", f"--{name.replace('_', '-')}"):
        assert hint(written, KNOWN).endswith(INSTEAD[name])


@pytest.mark.parametrize(
    "name", ["finetuning_type", "lora_rank", "lora_alpha", "lora_target", "val_size", "metric_name"]
)
def test_what_other_scripts_take_is_answered_and_not_by_a_flag_that_is_alike(name):
    assert "; what does it here is " in hint(f"--{name}", KNOWN)


@pytest.mark.parametrize(
    "name", ["warmup_ratio", "group_by_length", "logging_dir", "overwrite_output_dir", "evaluation_strategy", "no_cuda"]
)
def test_what_the_trainer_has_taken_no_longer_since_its_fifth_release_is_answered(name):
    assert name not in {field.name for field in dataclasses.fields(TrainingArguments)}
    with pytest.raises(UserError, match=f"^unknown argument '--{name}'; what does it here is "):
        parse([f"--{name}=1"])


def test_the_flags_that_others_come_with_are_answered():
    tables = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8").partition("## sentence-transformers")[0]
    cells = [line.split(" | ")[0] for line in tables.splitlines() if line.startswith("| ")]
    names = {match[1] for cell in cells for match in re.finditer(r"`([a-z_0-9]+)(?:=\w+|: [\w-]+)?`", cell)}
    assert {"cutoff_len", "end_to_end", "task_name", "freeze_trainable_layers"} < names
    unanswered = [name for name in sorted(names) if f"--{name}" not in KNOWN and name not in INSTEAD]
    assert unanswered == []
