import json
import re

import numpy as np
import pytest

from recipe.commands.prefix_cache import list_caches
from recipe.errors import UserError
from recipe.reporting.outputs import remove_run
from recipe.studies import points as points_module
from recipe.studies import sweep as sweep_module
from recipe.studies.sweep import Comparison, sweep
from tests.utils import write_jsonl


@pytest.fixture
def words(tiny_model, pairs_dir, tmp_path):
    given = {"model_name_or_path": tiny_model, "data_dir": pairs_dir, "max_length": 32, "use_cpu": "true"}
    given |= {"per_device_train_batch_size": 16, "num_train_epochs": 2, "output_dir": tmp_path / "sweep"}
    given |= {"prefix_cache_dir": tmp_path / "cache", "bf16": "false"}
    return [f"--{name}={value}" for name, value in given.items()]


def test_every_point_once_from_one_pass_and_again_nothing(words, tmp_path, monkeypatch, capsys):
    trained, real, stops = [], points_module.train, {"stop"}

    def train(arguments):
        trained.append((arguments.freeze.freeze_layers, arguments.training.seed))
        if len(trained) == 4 and "stop" in stops:
            stops.clear()
            raise KeyboardInterrupt
        return real(arguments)

    monkeypatch.setattr(points_module, "train", train)
    with pytest.raises(KeyboardInterrupt):
        sweep(words, Comparison(depths=[4, 0, 2], seeds=[1, 2]))
    told = sweep(words, Comparison(depths=[0, 2, 4], seeds=[1, 2]))
    assert trained == [("none", 1), ("none", 2), ("0-1", 1), ("0-1", 2), ("0-1", 2), ("0-3", 1), ("0-3", 2)]
    out = capsys.readouterr().out
    assert told in out
    assert re.search(r"^0-3 +66 ", out, re.MULTILINE)
    folder = tmp_path / "sweep"
    assert {path.name for path in folder.iterdir()} == {"sweep.json", "sweep.png", "sweep.log", "predictions"}
    assert len(list((folder / "predictions").iterdir())) == 6
    assert sorted(each.manifest["depth"] for each in list_caches(tmp_path / "cache")) == [2, 4]
    assert "found" in (folder / "sweep.log").read_text()
    sweep(words, Comparison(depths=[4], over=["learning_rate=1e-4,1e-2"], seeds=[1]))
    assert trained[7:] == [("0-3", 1)] * 2
    sweep(words, Comparison(over=["freeze_layers=0-3", "learning_rate=1e-4,1e-2"], seeds=[1, 3]))
    assert trained[9:] == [("0-3", 3)] * 2


def test_a_points_figures_are_those_of_its_run_and_of_its_answers(words, tmp_path):
    sweep(words, Comparison(over=["freeze_layers=0-1"], seeds=[5]))
    (point,) = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["points"]
    assert (point["setting"], point["seed"]) == ({"freeze_layers": "0-1"}, 5)
    assert [each["epoch"] for each in point["evaluations"]] == [1.0, 2.0]
    assert point["accuracy"] / 100 == max(each["eval_accuracy"] for each in point["evaluations"])
    (path,) = (tmp_path / "sweep" / "predictions").iterdir()
    with np.load(path) as found:
        assert 100 * (found["probabilities"].argmax(-1) == found["labels"]).mean() == point["accuracy"]
    log = (tmp_path / "sweep" / "sweep.log").read_text()
    assert len(re.findall(r"dev.json encoded in", log)) == 1  # its answers take the run's own states
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"seed-5.npz: not a model's answers \(\w+\); remove it, and they"):
        sweep(words, Comparison(over=["freeze_layers=0-1"], seeds=[5]))


def test_a_point_that_was_stopped_cost_what_it_cost_before_too(words, tmp_path, monkeypatch):
    real, earlier = points_module.train, {"earlier_train_seconds": 1000.0, "earlier_encode_seconds": 500.0}
    last = {"train_seconds": 2.0, "encode_seconds": 1.0, "total_seconds": 4.0}

    def train(arguments):
        real(arguments)
        path = arguments.training.folder / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | earlier | last))

    monkeypatch.setattr(points_module, "train", train)
    sweep(words, Comparison(over=["freeze_layers=0-3"], seeds=[5]))
    (point,) = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["points"]
    assert [point[each] for each in last] == [1002, 501, 1504]


def test_the_best_rate_for_each_depth_is_chosen_by_loss_of_other_seeds(words, monkeypatch, capsys):
    losses = {("none", 0.01): 0.6, ("none", 0.1): 0.7, ("0-3", 0.01): 0.7, ("0-3", 0.1): 0.6}
    trained, real = [], points_module.train

    def train(arguments):
        trained.append((arguments.freeze.freeze_layers, arguments.training.learning_rate, arguments.training.seed))
        return real(arguments)

    def keep(arguments, path):
        return {**keep_answers(arguments, path), "loss": losses[trained[-1][:2]]}

    keep_answers = points_module.keep_answers
    monkeypatch.setattr(points_module, "train", train)
    monkeypatch.setattr(points_module, "keep_answers", keep)
    asked = Comparison(over=["freeze_layers=none,0-3", "learning_rate=0.01,0.1"], seeds=[1, 2], choose="learning_rate")
    sweep(words, asked._replace(choose_seeds=[9]))
    assert trained[:4] == [(layers, rate, 9) for layers, rate in losses]
    assert trained[4:] == [("none", 0.01, 1), ("none", 0.01, 2), ("0-3", 0.1, 1), ("0-3", 0.1, 2)]
    out = capsys.readouterr().out
    chosen = "freeze_layers=none learning_rate=0.01; freeze_layers=0-3 learning_rate=0.1"
    assert f"chosen by evaluation loss: {chosen}" in out
    with pytest.raises(UserError, match=r"--choose_seeds 2: reported too \(--seeds\)"):
        sweep(words, asked._replace(choose_seeds=[2]))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Comparison(over=["learning_rat=1,2"]), r"--learning_rat"),
        (Comparison(over=["learning_rate=1e-3,fast"]), r"--learning_rate"),
        (Comparison(over=["freeze_layers=0-1,0-4"]), r"--freeze_layers 0-4: no layer 4; the model's layers are 0-3"),
        (
            Comparison(over=["freeze_embeddings=true,false", "num_tails=2"]),
            r"--num_tails 2: the embeddings are trained",
        ),
        (Comparison(over=["freeze_modules=layer.3,layer.4"]), r"--freeze_modules 'layer.4': matches no parameter"),
        (Comparison(over=["eval_strategy=epoch,no"]), r"--eval_strategy no: a sweep compares accuracies"),
        (Comparison(over=["max_eval_samples=10,-1"]), r"--max_eval_samples -1"),
        (Comparison(depths=[2, 5]), r"--depths 2 5: the model has 4 layers; 0 to 4 is expected"),
        (Comparison(tolerance=-1.0), r"--tolerance -1: points of accuracy, 0 to 100, are expected"),
        (Comparison(over=["max_length=32,100"]), r"^--max_length 100: the model has 64 positions"),
        (Comparison(over=['class_weights="1,3","1,2,3"']), r"^--class_weights 1,2,3: 'balanced', or a number"),
        (
            Comparison(over=["prefix_cache=auto,on", "freeze_layers=none,0-1"]),
            r"^--prefix_cache on: there is no frozen",
        ),
        (Comparison(choose_seeds=[7, 8]), r"^--choose_seeds 7 8: nothing is chosen; --choose with a flag of --over is"),
        (Comparison(seeds=[-1]), r"--seed -1"),
        (Comparison(seeds=[1, 2, 1]), r"--seeds 1 2 1: a seed stands there twice; different ones are expected"),
    ],
)
def test_what_is_wrong_with_the_last_setting_is_said_before_the_first_is_trained(words, tmp_path, asked, says):
    with pytest.raises(UserError, match=says):
        sweep(words, asked)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    "asked", ["--do_eval", "--do_predict", "--push_to_hub", "--eval_split=train", "--resume=never"]
)
@pytest.mark.parametrize("more", [[], ["--do_train"]])
def test_what_asks_for_another_score_than_the_points_is_refused(words, tmp_path, monkeypatch, asked, more):
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    flag = asked.replace("=never", "").replace("=", " ")
    with pytest.raises(UserError, match=rf"^{flag}: .*; leave it out$"):
        sweep([*words, *more, asked], Comparison(seeds=[1]))
    if asked == "--eval_split=train":
        with pytest.raises(
            UserError, match=r"^--do_eval: these runs go on by themselves, scored on the validation split"
        ):
            sweep([*words, *more, asked, "--do_eval"], Comparison(seeds=[1]))
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(("given", "says"), [(["--seed=7"], True), (["--seed=2"], False), (["--seed=3"], False)])
def test_a_seed_that_no_point_has_is_said_to_be_unused(words, monkeypatch, capsys, given, says):
    monkeypatch.setattr(points_module, "train", lambda arguments: pytest.fail("trained"))
    with pytest.raises(pytest.fail.Exception):
        sweep([*words, *given], Comparison(depths=[0, 1], seeds=[1, 2], choose="freeze_layers", choose_seeds=[3]))
    assert ("note: --seed 7: not used; the points have those of --seeds\n" in capsys.readouterr().out) is says


def test_settings_are_compared_by_the_same_labels(words, pairs_dir, tmp_path):
    for name in ("train.json", "dev.json"):
        rows = [json.loads(line) for line in (pairs_dir / name).read_text().splitlines()]
        write_jsonl(tmp_path / name, [{**row, "other": str(1 - int(row["label"]))} for row in rows])
    words = [*words, f"--data_dir={tmp_path}"]
    says = r"^--over: label_column_name=other has other labels of the validation split than label_column_name=label"
    with pytest.raises(UserError, match=says):
        sweep(words, Comparison(over=["label_column_name=label,other"], seeds=[1]))


def test_settings_are_compared_on_the_same_pairs(words, pairs_dir, tmp_path):
    other = tmp_path / "other.json"
    other.write_text("".join((pairs_dir / "dev.json").read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"--over: validation_file=.*other.json has another validation split than val"):
        sweep(words, Comparison(over=[f"validation_file={pairs_dir / 'dev.json'},{other}"]))


def test_a_search_goes_on_from_the_sweeps_own_file(words, tmp_path, capsys):
    config = tmp_path / "my sweep.yaml"
    config.write_text("".join(f"{word[2:].replace('=', ': ', 1)}\n" for word in words))
    asked = Comparison(over=["freeze_layers=all"], seeds=[1])
    for given, says in (([str(config)], f"CONFIG='{config}', with"), (words, "CONFIG=..., with these flags and")):
        sweep(given, asked)
        assert capsys.readouterr().out.endswith(
            f"next            make tune {says} the setting that you choose in that file\n"
        )


def test_other_data_are_other_points(words, pairs_dir, tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train.json", "dev.json"):
        (data / name).write_bytes((pairs_dir / name).read_bytes())
    trained, real = [], points_module.train
    monkeypatch.setattr(points_module, "train", lambda arguments: (trained.append(arguments), real(arguments)))
    words, asked = [*words, f"--data_dir={data}"], Comparison(over=["freeze_layers=0-3"], seeds=[1])
    sweep(words, asked)
    sweep(words, asked)
    assert len(trained) == 1
    with open(data / "train.json", "a") as file:
        file.write((pairs_dir / "dev.json").read_text().splitlines(keepends=True)[0])
    sweep(words, asked)
    assert len(trained) == 2


def test_the_majority_line_is_of_the_pairs_that_are_shown(words, pairs_dir, tmp_path, monkeypatch):
    drawn, asked = [], Comparison(over=["freeze_layers=all"], seeds=[1])
    monkeypatch.setattr(sweep_module, "draw_sweep", lambda rows, majority, path: drawn.append(majority) or path.touch())
    other = tmp_path / "other.json"
    other.write_text((pairs_dir / "dev.json").read_text().replace('"label": "0"', '"label": "1"'))
    both = [f"--train_file={pairs_dir / 'train.json'}", f"--validation_file={other}"]
    for more in ([], both, []):
        sweep([*words, *more, "--num_train_epochs=1"], asked)
    assert drawn == [drawn[0], 100.0, drawn[0]]
    assert drawn[0] < 100
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text())["majority"] == drawn[0]


def test_a_points_memory_is_counted_after_that_of_the_one_before_is_given_back(words, monkeypatch):
    calls = []
    for name in ("give_back_freed_memory", "reset_peak_memory"):
        monkeypatch.setattr(points_module, name, lambda name=name: calls.append(name))
    monkeypatch.setattr(points_module, "train", lambda arguments: pytest.fail("trained"))
    with pytest.raises(pytest.fail.Exception):
        sweep(words, Comparison(over=["freeze_layers=all"], seeds=[1]))
    assert calls == ["give_back_freed_memory", "reset_peak_memory"]


def test_what_a_sweep_wrote_is_read_as_it_was_written_or_refused(words, tmp_path, monkeypatch):
    monkeypatch.setattr(points_module, "train", lambda arguments: pytest.fail("a point was trained"))
    record = {"majority": 50.0, "points": [{"depth": 0, "seed": 1, "accuracy": 50.0}]}
    (tmp_path / "sweep").mkdir()
    for content in ([], record, {**record, "points": {}}, {"majority": "50", "points": []}):
        (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"sweep.json: .*; remove it, or name another --output_dir"):
            sweep(words, Comparison(depths=[0], seeds=[1]))


@pytest.mark.parametrize("name", ["sweep.log", "sweep.png"])
def test_a_link_is_not_written_through(words, tmp_path, name):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match=rf"--output_dir .*: {name} is there, which this command did not write"):
        sweep(words, Comparison(depths=[0], seeds=[1]))
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
