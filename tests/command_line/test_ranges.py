import pytest

from recipe.command_line.parsing import build_parser, parse
from recipe.command_line.ranges import RULES
from recipe.errors import UserError
from recipe.training_fields import REFUSED

LIMITLESS = {"learning_rate", "adam_epsilon", "weight_decay", "eval_delay", "prefix_cache_max_gb", "max_grad_norm"}


@pytest.mark.parametrize("name", [name for _, _, names in RULES for name in names])
def test_a_number_out_of_its_range_is_refused_by_its_flag(name):
    for value in ["nan", "inf", "-inf", "-2", *([] if name in LIMITLESS else [str(10**20)])]:
        with pytest.raises(UserError, match=f"^--{name}( |:)"):
            parse([f"--{name}={value}"])


def test_every_number_has_a_rule_or_is_refused():
    ruled = {name for _, _, names in RULES for name in names} | set(REFUSED) | {"local_rank"}
    assert {action.dest for action in build_parser()._actions if action.type in (int, float)} <= ruled
