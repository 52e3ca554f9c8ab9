import json

import pytest

from recipe.commands.prefix_cache import list_caches
from recipe.errors import UserError
from recipe.reporting.outputs import remove_run
from recipe.studies import sweep as sweep_module
from recipe.studies.comparison import Depth, half_width, layers_to_freeze, recommend
from recipe.studies.sweep import sweep


@pytest.fixture
def words(tiny_model, pairs_dir, tmp_path):
    given = {"model_name_or_path": tiny_model, "data_dir": pairs_dir, "max_length": 32, "use_cpu": "true"}
    given |= {"per_device_train_batch_size": 16, "num_train_epochs": 2, "output_dir": tmp_path / "sweep"}
    given |= {"prefix_cache_dir": tmp_path / "cache", "bf16": "false"}
    return [f"--{name}={value}" for name, value in given.items()]


def test_every_point_once_from_one_pass_and_again_nothing(words, tmp_path, monkeypatch, capsys):
    trained, real = [], sweep_module.train

    def train(arguments):
        trained.append((arguments.freeze.freeze_layers, arguments.training.seed))
        if len(trained) == 4 and "stop" in stops:
            stops.clear()
            raise KeyboardInterrupt
        return real(arguments)

    stops = {"stop"}
    monkeypatch.setattr(sweep_module, "train", train)
    with pytest.raises(KeyboardInterrupt):
        sweep(words, [4, 0, 2], [1, 2], 0.5)
    told = sweep(words, [0, 2, 4], [1, 2], 0.5)
    assert trained == [("none", 1), ("none", 2), ("0-1", 1), ("0-1", 2), ("0-1", 2), ("0-3", 1), ("0-3", 2)]
    out = capsys.readouterr().out
    assert told in out
    assert "0-3                 66" in out
    folder = tmp_path / "sweep"
    assert {path.name for path in folder.iterdir()} == {"sweep.json", "sweep.png", "sweep.log"}
    record = json.loads((folder / "sweep.json").read_text())
    assert [(point["depth"], point["seed"]) for point in record["points"]] == [
        (depth, seed) for depth in (0, 2, 4) for seed in (1, 2)
    ]
    log = (folder / "sweep.log").read_text()
    assert sorted(each.told["depth"] for each in list_caches(tmp_path / "cache")) == [2, 4]
    assert "found" in log
    sweep(words, [0, 2, 4], [1, 2], 0.5)
    assert len(trained) == 7
    record["base"]["config"]["hidden_act"] = "relu"
    (folder / "sweep.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"sweep.json: was begun with another base or tokenizer"):
        sweep(words, [4], [3], 0.5)
    (folder / "sweep.json").write_text(json.dumps(record | {"weights": "others"}))
    with pytest.raises(UserError, match=r"--model_name_or_path .*sweep.json was begun with other weights; name"):
        sweep(words, [4], [3], 0.5)
    record["arithmetic"] |= {"mixed_precision": "bf16", "threads": 99}
    (folder / "sweep.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"mixed precision \(--bf16, .*\) no: it was bf16 in .*sweep.json; give"):
        sweep(words, [4], [3], 0.5)
    with pytest.raises(UserError, match=r"--learning_rate 0.01: .*sweep.json was begun with 0.0001"):
        sweep([*words, "--learning_rate=0.01"], [0], [1], 0.5)


def test_what_a_sweep_wrote_is_read_as_it_was_written_or_refused(words, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module, "train", lambda arguments: pytest.fail("a point was trained"))
    point = {"depth": 0, "seed": 1, "accuracy": 50.0, "trainable": 9, "encode_seconds": 0, "train_seconds": 1}
    record = {"settings": {}, "data": None, "majority": 50.0, "points": [{**point, "total_seconds": 1}]}
    (tmp_path / "sweep").mkdir()
    for content in ([], {**record, "points": [point]}, {**record, "settings": []}, {**record, "majority": "50"}):
        (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"sweep.json: .*; remove it, or name another --output_dir"):
            sweep(words, [0], [1], 0.5)


@pytest.mark.parametrize("name", ["sweep.log", "sweep.png"])
def test_a_link_is_not_written_through(words, tmp_path, name):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=rf"--output_dir .*: {name} is there, which this command did not write"):
        sweep(words, [0], [1], 0.5)
    assert not (tmp_path / "outside").exists()


def test_a_points_folder_keeps_what_is_not_the_runs(tmp_path):
    place, linked = tmp_path / "depth-0-seed-1", tmp_path / "depth-0-seed-2"
    place.mkdir()
    for name in ("run.json", "model.safetensors", "notes.txt"):
        (place / name).touch()
    linked.symlink_to(place)
    remove_run(linked)
    assert len(list(place.iterdir())) == 3
    remove_run(place)
    assert [path.name for path in place.iterdir()] == ["notes.txt"]
    remove_run(tmp_path / "none")


def test_a_depth_that_the_model_does_not_have(words, tmp_path):
    with pytest.raises(UserError, match=r"--depths 2 5: the model has 4 layers; 0 to 4 is expected"):
        sweep(words, [2, 5], [1], 0.5)
    assert not (tmp_path / "sweep").exists()


def make(depth, *accuracies):
    return Depth(depth, dict(enumerate(accuracies)), 1000, 1.0)


@pytest.mark.parametrize(
    ("depths", "told"),
    [
        (
            [make(0, 75, 76, 75.5), make(6, 74.9, 75.9, 75.4), make(10, 70, 71, 70.5)],
            "--freeze_layers 0-5 is the deepest",
        ),
        (
            [make(0, 75, 76, 75.5), make(6, 73.0, 77.9, 75.2)],
            "The seeds do not tell: --freeze_layers 0-5",
        ),
        (
            [make(0, 75), make(6, 74.9)],
            "The seeds do not tell: with a single one",
        ),
        ([make(0, 70, 70.1, 70.2), make(6, 75, 75.2, 75.1)], "--freeze_layers 0-5 is the best of these depths"),
        ([make(2, 75, 75.1, 75.2), make(6, 71, 71.1, 70)], "--freeze_layers 0-1 is the best of these depths"),
    ],
)
def test_the_recommendation_says_what_the_seeds_show(depths, told):
    assert recommend(depths, 0.5).startswith(told)


def test_half_width_by_hand():
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / 3**0.5)
    assert half_width([1.0]) is None
    assert [layers_to_freeze(depth) for depth in (0, 1, 2, 12)] == ["none", "0", "0-1", "0-11"]
