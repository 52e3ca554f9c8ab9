import pytest

from recipe.errors import UserError
from recipe.studies.settings import Setting, groups, layers_to_freeze, over_depths, parse_over


def test_every_combination_the_first_flag_slowest():
    found = parse_over(["freeze_layers=0-7,0-9", "--learning_rate=1e-4,3e-4"])
    assert [each.name for each in found] == [
        f"freeze_layers={layers} learning_rate={rate}" for layers in ("0-7", "0-9") for rate in ("1e-4", "3e-4")
    ]
    assert found[0].words == ["--freeze_layers=0-7", "--learning_rate=1e-4"]


def test_a_value_with_commas_is_quoted():
    assert [each.values for each in parse_over(['freeze_layers="0-5,8",none'])] == [
        (("freeze_layers", "0-5,8"),),
        (("freeze_layers", "none"),),
    ]


@pytest.mark.parametrize(
    ("items", "same"),
    [
        ([' freeze_layers="0-5,8",0-9  seed_of=1 '], ['freeze_layers="0-5,8",0-9', "seed_of=1"]),
        (["learning_rate=1e-3, 3e-3 --weight_decay=0"], ["learning_rate=1e-3,3e-3", "weight_decay=0"]),
        (['freeze_layers="0-5,8" ,\n 0-9\r\n seed_of=1'], ['freeze_layers="0-5,8",0-9', "seed_of=1"]),
        (['train_file="a  b.json",c\u3000d.json'], ["train_file=a  b.json, c\u3000d.json"]),
        (['train_file="a b=c.json", my data/d.json lr=1'], ['train_file="a b=c.json","my data/d.json"', "lr=1"]),
    ],
)
def test_make_hands_on_all_items_in_one_word(items, same):
    assert parse_over(items) == parse_over(same)
    assert len(parse_over(items)) == 2


def test_nothing_varied_is_one_setting():
    assert [(each.name, each.words) for each in parse_over([])] == [("as given", [])]


@pytest.mark.parametrize(
    ("items", "says"),
    [
        (["learning_rate"], r"--over learning_rate: flag=value,value is expected, as in learning_rate=1e-4,3e-4"),
        ([""], r"--over : flag=value,value is expected"),
        (["'a=1 b=2'"], r"--over 'a=1: flag=value,value is expected"),
        (["=1"], r"--over =1: flag=value,value is expected"),
        (["seed=1,2"], r"--over seed=1,2: --seeds sets it"),
        (["output_dir=a,b"], r"--over output_dir=a,b: --output_dir sets it"),
        (["do_eval=true"], r"--over do_eval=true: a sweep trains with each value"),
        (["weight_decay="], r"--over weight_decay=: each flag once, with different values"),
        (["weight_decay=0,0"], r"--over weight_decay=0,0: each flag once, with different values"),
        (['freeze_layers="0-7,0-9'], r'--over freeze_layers="0-7,0-9: values separated by commas, as in'),
        (['freeze_layers=0-5,"8'], r'--over freeze_layers=0-5,"8: values separated by commas'),
        (['freeze_layers="0-5,8"b=3'], r'--over freeze_layers="0-5,8"b=3: values separated by commas'),
        (["weight_decay=0", "weight_decay=1"], r"--over weight_decay=1: each flag once"),
    ],
)
def test_an_item_that_cannot_be_meant(items, says):
    with pytest.raises(UserError, match=says):
        parse_over(items)


def test_depths_are_freeze_layers_from_shallow_to_deep():
    assert [layers_to_freeze(depth) for depth in (0, 1, 2, 12)] == ["none", "0", "0-1", "0-11"]
    assert over_depths([4, 0, 2], 4) == "freeze_layers=none,0-1,0-3"
    assert over_depths(None, 2) == "freeze_layers=none,0,0-1"
    with pytest.raises(UserError, match=r"--depths 2 5: the model has 4 layers; 0 to 4 is expected"):
        over_depths([2, 5], 4)


def test_groups_differ_in_the_chosen_flag_alone():
    settings = parse_over(["freeze_layers=none,all", "learning_rate=1,2"])
    assert groups(settings, "learning_rate") == [settings[:2], settings[2:]]
    assert groups(settings, "freeze_layers") == [settings[::2], settings[1::2]]
    with pytest.raises(UserError, match=r"--choose weight_decay: --over does not vary it"):
        groups([Setting(())], "weight_decay")
