import importlib
import sys

import pytest

from recipe.errors import UserError


@pytest.mark.parametrize(
    ("module", "words", "told"),
    [
        ("studies.sweep", "--seeds 42 -1", "--seed -1: a whole number from 0"),
        ("studies.sweep", "--tolerance nan", "--tolerance nan: points of accuracy"),
        ("studies.sweep", "--depths x", "--depths: invalid int value: 'x'"),
        ("tuning.tune", "--trials 0", "--trials 0: a whole number of at least 1"),
        ("commands.prefix_cache", "nonsense", "argument action: invalid choice"),
        ("commands.prefix_cache", "prune --older_than_days -1e-3", "--older_than_days -0.001: "),
        ("commands.merge_checkpoint", "", "the following arguments are required: checkpoint, folder"),
    ],
)
def test_the_other_commands_say_what_is_wrong_in_one_line(module, words, told, monkeypatch):
    monkeypatch.setattr(sys, "argv", [module, *words.split()])
    with pytest.raises(UserError) as error:
        importlib.import_module(f"recipe.{module}").main()
    assert str(error.value).startswith(told)
