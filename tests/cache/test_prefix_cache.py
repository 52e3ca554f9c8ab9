import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import AutoTokenizer

from recipe.arguments import FreezeArguments
from recipe.cache.encoding import equal_length_batches, fast_dtype
from recipe.cache.key import make_key
from recipe.cache.prefix_cache import open_cache, rows_per_pair
from recipe.commands import prefix_cache as caches
from recipe.commands.prefix_cache import list_caches, prune
from recipe.commands.train import train
from recipe.errors import RunError, UserError
from recipe.model.freezing import freeze
from tests.utils import ROOT, assert_close, history, make_pairs, write_jsonl

LAST = ("--load_best_model_at_end=false", "--save_total_limit=3")


def states_of(model, tokens, index):
    example = tokens.example(index)
    ids, types = (torch.tensor([example[name]]) for name in ("input_ids", "token_type_ids"))
    return model.run_prefix(ids, None, types)[0]


def test_batches_of_equal_length_hold_each_pair_once():
    lengths = torch.randint(3, 40, (500,), generator=torch.Generator().manual_seed(0))
    batches = list(equal_length_batches(lengths, 128))
    assert sorted(torch.cat(batches).tolist()) == list(range(500))
    for batch in batches:
        assert len(lengths[batch].unique()) == 1
        assert lengths[batch].sum() <= 128


def test_states_are_the_prefixs_output(model, encoded):
    cache, tokens, _ = encoded()
    for index in (0, 33, 69):
        states, mask = cache.gather([index])
        assert mask is None
        torch.testing.assert_close(states[0], states_of(model, tokens, index), rtol=0, atol=1e-6)


def test_gather_pads_with_a_mask(model, encoded):
    cache, tokens, _ = encoded()
    states, mask = cache.gather([5, 1, 40])
    assert mask.sum(1).tolist() == tokens.lengths[[5, 1, 40]].tolist()
    for row, index in enumerate((5, 1, 40)):
        length = int(tokens.lengths[index])
        torch.testing.assert_close(states[row, :length], states_of(model, tokens, index), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "compute", "bound"),
    [("float16", "float32", 0.003), ("bfloat16", "float32", 0.02), ("float16", "bfloat16", 0.1)],
)
def test_sixteen_bits_keep_the_logits_within_a_bound(model, encoded, dtype, compute, bound):
    cache, tokens, _ = encoded(dtype, compute)
    assert cache.states.dtype == getattr(torch, dtype)
    states, mask = cache.gather(list(range(70)))
    exact = torch.cat([model(prefix_states=states_of(model, tokens, index)[None]).logits for index in range(70)])
    torch.testing.assert_close(model(prefix_states=states, attention_mask=mask).logits, exact, rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("able", "name"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({"avx512_f": True}, "float32")],
)
def test_the_processor_says_what_is_fast(monkeypatch, able, name):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert fast_dtype(torch.device("cpu")) == name


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_encode_equal_shares(ranks):
    lengths = torch.randint(11, 60, (34_334,), generator=torch.Generator().manual_seed(0))
    batches = list(equal_length_batches(lengths, 4096))
    shares = [sum(int(lengths[batch].sum()) for batch in batches[rank::ranks]) for rank in range(ranks)]
    assert max(shares) / min(shares) < 1.05


def test_a_full_prefix_keeps_cls_alone(model, encoded):
    freeze(model, FreezeArguments(freeze_layers="all"))
    cache, tokens, key = encoded()
    assert cache.states.shape == (70, 32)
    assert rows_per_pair(tokens, key).tolist() == list(range(71))
    torch.testing.assert_close(cache.gather([7])[0][0], states_of(model, tokens, 7), rtol=0, atol=1e-6)


def test_a_deeper_prefix_goes_on_from_a_shallower_one(model, encoded, tmp_path):
    encoded()
    freeze(model, FreezeArguments(freeze_layers="0-2"))
    cache, tokens, _ = encoded()
    assert cache.manifest["extended_from_depth"] == 2
    torch.testing.assert_close(cache.gather([3])[0][0], states_of(model, tokens, 3), rtol=0, atol=1e-6)


# ---- the key: one test for each thing in it ----


def change_weight(model):
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[0] += 1e-6


def change_embedding(model):
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[7, 7] += 1e-6


CHANGES = {
    "weight": change_weight,
    "embedding": change_embedding,
    "depth": lambda model: freeze(model, FreezeArguments(freeze_layers="0")),
    "activation": lambda model: setattr(model.config, "hidden_act", "relu"),
    "layer norm": lambda model: setattr(model.config, "layer_norm_eps", 1e-5),
    "heads": lambda model: setattr(model.config, "num_attention_heads", 2),
    "attention": lambda model: model.set_attn_implementation("eager"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_model_does_not_meet_an_old_cache(model, encoded, tmp_path, change):
    _, tokens, key = encoded()
    assert open_cache(tmp_path / "cache", make_key(model, tokens, "float32", "float32"), tokens) is not None
    change(model)
    other = make_key(model, tokens, "float32", "float32")
    assert other.name != key.name
    assert open_cache(tmp_path / "cache", other, tokens) is None


@pytest.mark.parametrize("dtypes", [("float16", "float32"), ("float32", "bfloat16")])
def test_other_types_do_not_meet_an_old_cache(model, encoded, tmp_path, dtypes):
    _, tokens, _ = encoded()
    assert open_cache(tmp_path / "cache", make_key(model, tokens, *dtypes), tokens) is None


def test_other_library_versions_do_not_meet_an_old_cache(model, encoded, monkeypatch):
    _, tokens, key = encoded()
    monkeypatch.setattr("recipe.cache.key.version", lambda name: "0")
    assert make_key(model, tokens, "float32", "float32").name != key.name


def test_other_texts_lengths_and_tokenizers_do_not_meet_an_old_cache(model, encoded, split_tokens):
    _, tokens, key = encoded()
    assert make_key(model, split_tokens(max_length=12), "float32", "float32").name != key.name
    ids = tokens.input_ids.clone()
    ids[4] += 1  # what another text or another vocabulary comes down to
    assert make_key(model, tokens._replace(input_ids=ids), "float32", "float32").name != key.name


def test_a_trained_tail_meets_the_old_cache(model, encoded):
    _, tokens, key = encoded()
    with torch.no_grad():
        model.bert.encoder.layer[3].output.dense.bias += 1
    assert make_key(model, tokens, "float32", "float32").name == key.name


# ---- complete or absent ----


@pytest.mark.parametrize("damage", ["no manifest", "torn manifest", "short", "long"])
def test_an_incomplete_cache_counts_for_nothing_and_is_made_again(model, encoded, tmp_path, damage):
    _, tokens, key = encoded()
    folder = tmp_path / "cache" / key.name
    if damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "torn manifest":
        (folder / "manifest.json").write_text('{"bytes": 1')
    else:
        os.truncate(folder / "states.bin", (folder / "states.bin").stat().st_size + (7 if damage == "long" else -7))
    assert open_cache(tmp_path / "cache", key, tokens) is None
    assert encoded()[0].gather([0])[0].isfinite().all()


def test_a_kill_while_encoding_leaves_nothing_that_is_trusted(tmp_path, tiny_model):
    write_jsonl(tmp_path / "train.json", make_pairs(4000, 5))
    write_jsonl(tmp_path / "dev.json", make_pairs(20))
    words = ["--model_name_or_path", tiny_model, "--data_dir", tmp_path, "--prefix_cache_dir", tmp_path / "cache"]
    words += ["--output_dir", tmp_path / "out", "--max_length", 32, "--use_cpu", "--freeze_layers", "0-1"]
    run = subprocess.Popen([sys.executable, "run_freeze.py", *map(str, words)], cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not list((tmp_path / "cache").glob("*/states.bin")) and time.time() < deadline:
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert list((tmp_path / "cache").glob("*/states.bin"))
    assert [manifest for _, _, manifest in list_caches(tmp_path / "cache")] == [None]
    prune(tmp_path / "cache", 0)
    assert list(list_caches(tmp_path / "cache")) == []


def test_a_value_beyond_float16_is_said_and_leaves_nothing(arguments, tmp_path, tiny_model):
    from transformers import BertModel

    broken = BertModel.from_pretrained(tiny_model, add_pooling_layer=False)
    with torch.no_grad():
        broken.encoder.layer[1].output.LayerNorm.bias[0] = 1e5
    broken.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "model")
    with pytest.raises(Exception, match="--prefix_cache_dtype float16"):
        train(arguments(f"--model_name_or_path={tmp_path / 'model'}", "--num_train_epochs=2", "--prefix_cache=on"))
    assert list(list_caches(tmp_path / "cache")) == []


# ---- training from it ----


def test_training_from_the_cache_equals_training_without(arguments, tmp_path):
    words = ("--num_train_epochs=3", "--per_device_train_batch_size=8", "--prefix_cache_dtype=float32", *LAST)
    for cache in ("on", "off"):
        train(arguments(*words, f"--prefix_cache={cache}", f"--output_dir={tmp_path / cache}"))
    for key in ("loss", "grad_norm", "eval_loss"):  # 27 steps, with dropout in the tail
        with_cache, without = history(tmp_path / "on", key), history(tmp_path / "off", key)
        assert len(with_cache) == (3 if key == "eval_loss" else 27)
        assert_close(with_cache, without, 1e-5)
    from safetensors.torch import load_file

    weights = [load_file(tmp_path / cache / "model.safetensors") for cache in ("on", "off")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        # the key's bias has no effect on the loss, its gradient is rounding alone, which AdamW scales up
        if not name.endswith("key.bias"):
            torch.testing.assert_close(value, weights[1][name], rtol=0, atol=1e-5)


def test_the_next_run_finds_it(arguments, tmp_path, capsys):
    words = ("--num_train_epochs=2",)
    train(arguments(*words))
    assert capsys.readouterr().out.count("encoded in") == 2
    train(arguments(*words, "--seed=7", "--learning_rate=1e-3", f"--output_dir={tmp_path / 'next'}"))
    out = capsys.readouterr().out
    assert out.count("found") == 2
    assert "encoded in" not in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--prefix_cache=off",), "as --prefix_cache says"),
        (("--freeze_layers=none",), "the embeddings are trained"),
        (("--freeze_layers=1-2", "--freeze_embeddings=true"), "layer 0 is trained"),
        (("--freeze_layers=all", "--unfreeze_modules", r"\.bias$"), "the embeddings are trained"),
        (("--frozen_dropout",), "--frozen_dropout"),
        (("--num_train_epochs=1",), "a single epoch"),
        (("--prefix_cache_max_gb=0.00000001",), "--prefix_cache_max_gb"),
        (("--prefix_cache_dir=/proc/nowhere",), "--prefix_cache_dir /proc/nowhere"),
    ],
)
def test_auto_says_why_not_and_trains_without(arguments, tmp_path, capsys, words, told):
    report = train(arguments("--num_train_epochs=2", *words))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("prefix cache:")]
    assert "off" in line
    assert told in line
    assert report.metrics["eval_accuracy"] > 0
    assert list(list_caches(tmp_path / "cache")) == []


@pytest.mark.parametrize("frozen", ["0-1", "all"])
def test_what_fits_is_kept_and_the_rest_computed_to_the_same_losses(arguments, tmp_path, frozen):
    words = ("--num_train_epochs=2", "--prefix_cache_dtype=float32", f"--freeze_layers={frozen}", *LAST)
    words += ("--prefix_cache=on",)  # which does not ask whether it pays
    room = {"0-1": 1e-4, "all": 9e-6}[frozen]  # of 0.24 MB and 12.8 kB
    for name, more in (("whole", ()), ("part", (f"--prefix_cache_max_gb={room}",))):
        cache = f"--prefix_cache_dir={tmp_path / name / 'cache'}"
        train(arguments(*words, *more, cache, f"--output_dir={tmp_path / name / 'run'}"))
    pairs = [manifest["pairs"] for _, _, manifest in list_caches(tmp_path / "part" / "cache")]
    assert 30 < sum(pairs) < 100
    assert 30 in pairs  # validation whole
    for key in ("loss", "grad_norm", "eval_loss"):
        parts = [history(tmp_path / name / "run", key) for name in ("whole", "part")]
        assert len(parts[0]) == (2 if key == "eval_loss" else 18)
        assert_close(*parts, 1e-5)


def test_a_part_resumes_as_a_part_and_refuses_another(arguments, tmp_path):
    words = ("--num_train_epochs=2", "--prefix_cache_max_gb=5e-5")
    train(arguments(*words))
    (tmp_path / "run" / "run.json").unlink()
    expected = history(tmp_path / "run", "loss")
    shutil.rmtree(tmp_path / "run" / "checkpoint-18")
    with pytest.raises(UserError, match=r"prefix cache in float16, computed in .*: it was .* of 100 pairs"):
        train(arguments("--num_train_epochs=2"))
    train(arguments(*words))
    assert history(tmp_path / "run", "loss") == expected


def test_auto_keeps_what_fits(arguments, capsys):
    train(arguments("--num_train_epochs=3", "--prefix_cache_max_gb=5e-5"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("prefix cache:")]
    assert "--prefix_cache_max_gb 5e-05 keeps " in lines[0]
    assert "the others are computed in each epoch" in lines[0]
    assert sum("encoded in" in line for line in lines) == 2


def test_on_refuses_where_it_cannot_be(arguments):
    with pytest.raises(UserError, match="--prefix_cache on: there is no frozen prefix"):
        train(arguments("--prefix_cache=on", "--freeze_layers=none"))


def test_a_full_disk_is_no_cache(arguments, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    train(arguments("--num_train_epochs=2"))
    assert "GB free" in capsys.readouterr().out


def test_checkpoints_hold_what_is_trained(arguments, tmp_path):
    from safetensors.torch import load_file

    train(arguments("--num_train_epochs=2"))
    (checkpoint, *_) = (tmp_path / "run").glob("checkpoint-*")
    names = load_file(checkpoint / "trainable.safetensors").keys()
    assert {name.split(".layer.")[-1][0] for name in names if ".layer." in name} == {"2", "3"}
    assert not (checkpoint / "config.json").exists()


def test_the_command_lists_and_prunes(encoded, tmp_path, monkeypatch, capsys):
    encoded()

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["prefix_cache", *words, "--prefix_cache_dir", str(tmp_path / "cache")])
        caches.main()
        return capsys.readouterr().out

    assert "depth 2, float32, train" in command("list")
    assert "freed 0 MB" in command("prune", "--older_than_days", "1")
    assert len(list(list_caches(tmp_path / "cache"))) == 1
    command("prune")
    assert list(list_caches(tmp_path / "cache")) == []


def test_manifest_says_what_it_is(encoded, tmp_path):
    cache, tokens, key = encoded()
    manifest = json.loads((tmp_path / "cache" / key.name / "manifest.json").read_text())
    assert manifest == cache.manifest
    assert manifest["pairs"] == 70
    assert manifest["tokens"] == int(tokens.offsets[-1])
    assert manifest["bytes"] == manifest["tokens"] * 32 * 4


def test_a_disk_that_fills_meanwhile_is_said_in_one_line(arguments, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        RunError, match=r"--prefix_cache_dir .*: No space left on device; to train without one: --prefix_cache off"
    ):
        train(arguments("--prefix_cache=on"))
    assert not any((tmp_path / "cache").iterdir())
    assert not (tmp_path / "run").exists()
