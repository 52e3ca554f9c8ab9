"""What a store is found by, and what a pair is found by in it: one test for each thing."""

import pytest
import torch

from recipe.arguments import FreezeArguments
from recipe.batches.tokens import Tokens
from recipe.cache.key import arithmetic_of, batch_pairs, make_key, pair_hashes
from recipe.cache.store import open_store
from recipe.model.freezing import freeze

CPU = torch.device("cpu")


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
    _, _, key = encoded()
    assert open_store(tmp_path / "cache", make_key(model, "float32", "float32", CPU)) is not None
    change(model)
    other = make_key(model, "float32", "float32", CPU)
    assert other.name != key.name
    assert open_store(tmp_path / "cache", other) is None


@pytest.mark.parametrize("dtypes", [("float16", "float32"), ("float32", "bfloat16")])
def test_other_types_do_not_meet_an_old_cache(model, encoded, tmp_path, dtypes):
    encoded()
    assert open_store(tmp_path / "cache", make_key(model, *dtypes, CPU)) is None


def test_other_library_versions_do_not_meet_an_old_cache(model, encoded, monkeypatch):
    _, _, key = encoded()
    monkeypatch.setattr("recipe.cache.key.version", lambda name: "0")
    assert make_key(model, "float32", "float32", CPU).name != key.name


def test_a_pair_is_its_tokens_their_types_and_their_order(split_tokens):
    tokens, hashes = split_tokens(), pair_hashes(split_tokens())
    assert len(set(hashes.tolist())) == 70
    ids = tokens.input_ids.clone()
    ids[4] += 1  # what another text or another vocabulary comes down to
    changed = pair_hashes(tokens._replace(input_ids=ids)) != hashes
    assert changed.tolist() == [True] + 69 * [False]
    types = tokens.token_type_ids.clone()
    types[4] = 1 - types[4]
    assert (pair_hashes(tokens._replace(token_type_ids=types)) != hashes).sum() == 1
    assert (pair_hashes(split_tokens(max_length=12)) != hashes).any()
    swapped = Tokens(
        *(part.flip(0) for part in tokens[:2]), torch.tensor([0, *tokens.lengths.flip(0).cumsum(0)]), tokens.labels
    )
    assert not set(pair_hashes(swapped).tolist()) & set(hashes.tolist())


def test_a_batchs_shape_follows_from_the_length_alone():
    for length in range(1, 200):
        pairs = batch_pairs(length, (384, 256))
        assert pairs == max(1, (384 if length <= 48 else 256) // length)


def test_a_trained_tail_meets_the_old_cache(model, encoded):
    _, _, key = encoded()
    with torch.no_grad():
        model.bert.encoder.layer[3].output.dense.bias += 1
    assert make_key(model, "float32", "float32", CPU).name == key.name


def test_another_arithmetic_does_not_meet_an_old_cache(model, arguments, monkeypatch):
    args, names = arguments().training, set()

    def note():
        names.add(make_key(model, "float32", "float32", CPU, arithmetic_of(args)).name)

    note()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)  # gives the same bytes
    note()
    assert len(names) == 1
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    note()
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    note()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NO AVX")
    note()
    assert len(names) == 4
