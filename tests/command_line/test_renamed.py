import re

import pytest

from recipe.command_line.parsing import build_parser
from recipe.command_line.renamed import INSTEAD, hint
from recipe.training_fields import REFUSED

KNOWN = build_parser()._option_string_actions


@pytest.mark.parametrize("name", INSTEAD)
def test_what_is_given_in_place_of_a_flag_is_there_and_not_refused(name):
    assert f"--{name}" not in KNOWN
    flags = re.findall(r"--([a-z_0-9]+)", INSTEAD[name])
    assert {f"--{flag}" for flag in flags} <= {*KNOWN, "--config_file"}  # accelerate launch's
    assert not set(flags) & REFUSED.keys()
    for written in (name, f"--{name}", f"--{name.replace('_', '-')}"):
        assert hint(written, KNOWN).endswith(INSTEAD[name])
