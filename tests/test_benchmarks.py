import itertools
import json

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig

from benchmarks import afqmc, lora
from benchmarks.batches import at_quantiles, epoch_batches, eval_batches, examples, lengths_of, make_model
from benchmarks.loss_curves import draw, read_curve
from benchmarks.report import TARGETS, compare, print_table
from benchmarks.rows import ROWS, default_keys
from benchmarks.scale import write_pairs
from recipe.arguments import DataArguments, ModelArguments
from recipe.data.opening import open_split
from recipe.model.base_model import open_base
from recipe.model.loading import load_model
from recipe.studies.summary import Row


@pytest.mark.parametrize("system", ["b", "d", "h", "i16", "k16"])
def test_an_epoch_of_each_order_holds_the_lengths_once(system):
    lengths = lengths_of("train")[:1024]
    for batches in (epoch_batches(system, lengths), eval_batches(system, lengths)):
        assert sorted(length for batch in batches for length in batch) == sorted(lengths)
        assert len(at_quantiles(batches, 3)) == 3


def test_the_lengths_are_afqmcs():
    lengths = lengths_of("train")
    assert len(lengths) == 34_334
    assert 29 < sum(lengths) / len(lengths) < 30.5


def test_the_texts_of_an_example_give_its_tokens(tmp_path):
    make_model(tmp_path, BertConfig(hidden_size=2, num_hidden_layers=1, num_attention_heads=1, intermediate_size=2))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for row in examples([lengths_of("train")[:32]], 1):
        encoded = tokenizer(*row["texts"])
        assert {name: row[name] for name in ("input_ids", "token_type_ids")} == {
            name: encoded[name] for name in ("input_ids", "token_type_ids")
        }


def test_without_bfloat16_every_method_runs_in_float32_alone():
    assert all("16" not in key for key in default_keys(False))
    assert {"i", "j"} <= set(default_keys(False))
    assert {"i", "j"}.isdisjoint(default_keys(True))
    assert {target.peer for target in TARGETS} | {target.mine for target in TARGETS} <= set(default_keys(True))


def test_each_target_is_a_ratio_of_two_rows_of_the_run(capsys):
    def system(seconds):
        return {"step_seconds": seconds, "eval_seconds_a_pair": 0.0, "anonymous": 1e9, "gpu": 0}

    content = {
        "systems": {key: system(2.0) for key in ROWS} | {"h16": system(0.1), "g16": system(0.1)},
        "encoding": {"stock float32": 1.0, "float32": 2.0, "bfloat16": 4.0},
        "ceiling": {"matmul_flops_a_second": {"bfloat16": 1e12}, "share": {"bfloat16": 0.6}},
        "machine": {"device": "cpu"},
        "seconds": 1,
    }
    content |= compare(content, [30] * 64, [])
    *times, share = content["targets"]
    assert [round(target["measured"], 2) for target in times[:6]] == [20] * 6
    # two steps an epoch: 3 x 2 x 2 s against 480 s of encoding and 3 x 2 x 0.1 s
    assert times[6]["measured"] == pytest.approx(12 / 480.6)
    assert share["measured"] == 0.6
    print_table(content)
    assert "| 26x | 20.00x | missed |" in capsys.readouterr().out


def test_an_adapter_of_every_layer_counts_and_nothing_else_is_trained(tiny_model):
    peft = pytest.importorskip("peft")
    model = load_model(open_base(ModelArguments(model_name_or_path=str(tiny_model)))).eval()
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3]])}
    before = model(**batch).logits
    lora.inject(model)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    layers = model.config.num_hidden_layers
    assert len(trained) == 2 * 2 * layers + 2
    assert all("lora_" in name or name.startswith("classifier.") for name in trained)
    assert torch.allclose(model(**batch).logits, before, atol=1e-6)  # an adapter adds nothing at first
    adapters = [part for part in model.modules() if isinstance(part, peft.tuners.lora.Linear)]
    assert len(adapters) == 2 * layers
    for adapter in adapters:
        now = model(**batch).logits
        torch.nn.init.normal_(adapter.lora_B["default"].weight)
        assert not torch.equal(model(**batch).logits, now)


def test_generated_pairs_are_pairs_in_shards(tmp_path):
    write_pairs(tmp_path / "data", 100, 7)
    split = open_split(DataArguments(data_dir=str(tmp_path / "data")), "train")
    assert (split.rows, split.shards) == (100, 7)
    line = (tmp_path / "data" / "train-0.jsonl").read_text().splitlines()[0]
    assert json.loads(line).keys() == {"sentence1", "sentence2", "label"}


def test_a_loss_curve_is_what_the_trainer_logged(tmp_path):
    logged = [
        {"epoch": 0.5, "loss": 0.6, "learning_rate": 1e-4},
        {"epoch": 1.0, "loss": 0.5},
        {"epoch": 1.0, "eval_loss": 0.55},
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": logged}))
    assert read_curve(tmp_path, "loss") == [(0.5, 0.6), (1.0, 0.5)]
    assert read_curve(tmp_path, "eval_loss") == [(1.0, 0.55)]
    draw({"float32": [tmp_path], "bfloat16": [tmp_path, tmp_path]}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_stopped_sweeps_points_are_added_as_json_and_leave_the_majority(tmp_path, monkeypatch):
    monkeypatch.setattr(afqmc, "DATA", tmp_path / "afqmc.json")
    monkeypatch.setattr(afqmc, "PAIRS", 4)
    point = {"key": "0123456789", "setting": {"freeze_layers": "0-9"}, "seed": 42}
    (tmp_path / "predictions").mkdir()
    answers = {"probabilities": np.eye(2)[[0, 1, 1, 0]], "labels": np.array([0, 1, 0, 0])}
    np.savez(tmp_path / "predictions" / "freeze-01234567-seed-42.npz", **answers)
    for majority, kept in ((None, None), (69.0, 69.0), (None, 69.0)):
        (tmp_path / "sweep.json").write_text(json.dumps({"majority": majority, "points": [point]}))
        afqmc.add("m", tmp_path, None)
        content = json.loads((tmp_path / "afqmc.json").read_text())
        assert (content["majority"], len(content["points"])) == (kept, 1)
    (row,) = afqmc.rows_of([{**content["points"][0], "trainable_parameters": 1}])
    assert row.right[42].tolist() == [True, True, False, True]


def test_settings_in_float32_stand_behind_the_same_in_bfloat16():
    flags = ["0-1 bf16=false", "0-2", "0-1 bf16=true", "0-2 bf16=false prefix_compute_dtype=float32", "0-3"]
    rows = [Row(f"freeze_layers={each}", {}, {}) for each in flags]
    names = [[row.name.removeprefix("freeze_layers=") for row in each] for each in afqmc.by_types(rows)]
    assert names == [[flags[2], flags[0]], [flags[1], flags[3]], [flags[4]]]


def test_a_figures_names_say_of_what_the_numbers_are():
    assert afqmc.shortened("freeze_layers=0-7 learning_rate=1e-4 num_tails=2") == "0-7 1e-4, 2 tails"
    assert afqmc.shortened("first 3 layers: freeze_layers=none learning_rate=5e-5") == "first 3 layers: none 5e-5"


def test_settings_are_compared_with_the_best_that_has_several_seeds():
    points = [{"accuracy": 71.0}, {"accuracy": 72.0}, {"accuracy": 73.0}]
    poor, good, lucky = (Row("", dict.fromkeys(range(n), p), {}) for n, p in zip((3, 3, 1), points, strict=True))
    assert afqmc.best_of_several([poor, good, lucky]) is good
    assert afqmc.best_of_several([lucky]) is lucky


def test_adding_nothing_is_told(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["afqmc", "add", "m"])
    with pytest.raises(SystemExit, match="2"):
        afqmc.main()
    assert "add: MODEL and FOLDER are expected" in capsys.readouterr().err


def test_the_published_figures_names_cover_no_other(monkeypatch):
    figures = []
    monkeypatch.setattr("recipe.studies.pareto.save_figure", lambda figure, path: figures.append(figure))
    monkeypatch.setattr(afqmc, "format_table", lambda *_: "")
    afqmc.show()
    (axes,) = figures[0].axes
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts if text.get_text()}
    assert len(boxes) > 10
    covered = [(one, other) for one, other in itertools.combinations(boxes, 2) if boxes[one].overlaps(boxes[other])]
    assert covered == []
