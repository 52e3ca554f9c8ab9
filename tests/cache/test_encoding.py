import os

import pytest
import torch
from transformers import AutoTokenizer, BertModel

from recipe.arguments import FreezeArguments
from recipe.batches.tokens import Tokens
from recipe.cache import encoding
from recipe.cache.encoding import Encoding, equal_length_batches
from recipe.cache.finding import find_or_encode
from recipe.cache.key import BATCH_TOKENS, batch_pairs, make_key, pair_hashes
from recipe.cache.store import open_store
from recipe.commands.prefix_cache import list_caches, prune
from recipe.commands.train import train
from recipe.errors import RunError
from recipe.model.freezing import freeze
from recipe.model.modeling import BertForPairwiseCLS, BertPairwiseCLSConfig

PAIRS_OF_TYPES = [("float32", "float32"), ("float16", "float32"), ("bfloat16", "float32")]
PAIRS_OF_TYPES += [("float32", "bfloat16"), ("float16", "bfloat16"), ("bfloat16", "bfloat16")]


def test_batches_of_equal_length_hold_each_pair_once():
    lengths = torch.randint(3, 80, (500,), generator=torch.Generator().manual_seed(0))
    batches = list(equal_length_batches(lengths, (128, 96)))
    assert sorted(torch.cat(batches).tolist()) == list(range(500))
    for batch in batches:
        assert len(lengths[batch].unique()) == 1
        assert len(batch) <= batch_pairs(int(lengths[batch[0]]), (128, 96))


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_encode_equal_shares(ranks):
    lengths = torch.randint(11, 60, (34_334,), generator=torch.Generator().manual_seed(0))
    batches = list(equal_length_batches(lengths, BATCH_TOKENS["cpu"]))
    shares = [sum(int(lengths[batch].sum()) for batch in batches[rank::ranks]) for rank in range(ranks)]
    assert max(shares) / min(shares) < 1.05


def rows_of(cache):
    """The states of all pairs, one after the other."""
    return torch.cat([cache.gather([index])[0][0] for index in range(len(cache))])


@pytest.mark.parametrize(("dtype", "compute_dtype"), PAIRS_OF_TYPES)
@pytest.mark.parametrize("layers", ["0-2", "all"])
def test_going_on_from_shallower_states_gives_the_bytes_of_one_pass(
    model, encoded, tmp_path, monkeypatch, dtype, compute_dtype, layers
):
    found, run = [], encoding.prefix_runner

    def counted(job, device):
        real = run(job, device)
        return lambda base, *more: found.append(base.depth) or real(base, *more)

    monkeypatch.setattr(encoding, "prefix_runner", counted)
    caches = {}
    for name, depths in (("one pass", [layers]), ("in steps", ["0", "0-1", layers])):
        for depth in depths:
            freeze(model, FreezeArguments(freeze_layers=depth))
            found.clear()
            caches[name] = encoded(dtype, compute_dtype, directory=tmp_path / name)[0]
    extended = dtype == "float32" or compute_dtype == "bfloat16"  # else a step in 16 bits would cost digits
    assert set(found) == {2 if extended else 0}
    assert torch.equal(rows_of(caches["in steps"]), rows_of(caches["one pass"]))


@pytest.fixture(scope="module")
def wide():
    """A model as wide as BERT-base, one layer frozen, so that matrix products take the paths that theirs take."""
    torch.manual_seed(0)
    config = BertPairwiseCLSConfig(num_hidden_layers=2, vocab_size=100, num_labels=2)
    model = BertForPairwiseCLS(config).eval()
    freeze(model, FreezeArguments(freeze_layers="0"))
    return model


def random_tokens(lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 100, (sum(lengths),), generator=generator, dtype=torch.int32)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return Tokens(ids, (ids % 2).to(torch.uint8), offsets, torch.zeros(len(lengths), dtype=torch.int64))


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_a_pairs_states_are_the_same_in_any_company_place_and_call(wide, arguments, tmp_path, compute_dtype):
    """Of lengths 1 to 128, alone, beside one other and among two batches of others, before or behind them."""
    args, key = arguments().training, make_key(wide, "float32", compute_dtype, torch.device("cpu"))
    lengths = [1, 2, 3, 7, 16, 17, 29, 30, 31, 48, 49, 64, 77, 128]
    pairs = random_tokens(lengths, 1)
    states = []
    for call, company in enumerate((0, 1, 600)):
        others = [length for length in lengths for _ in range(min(company, 2 * batch_pairs(length, key.batch_tokens)))]
        more = random_tokens(others, 2 + call)
        for first in (True, False) if company else (True,):
            parts = (pairs, more) if first else (more, pairs)
            tokens = Tokens(
                torch.cat([part.input_ids for part in parts]),
                torch.cat([part.token_type_ids for part in parts]),
                torch.cat([torch.zeros(1, dtype=torch.int64), *(part.lengths for part in parts)]).cumsum(0),
                torch.zeros(len(lengths) + len(others), dtype=torch.int64),
            )
            job = Encoding(wide, tokens, pair_hashes(tokens), key, tmp_path / f"{call} {first}", "train")
            (cache,) = find_or_encode([job], args)
            start = 0 if first else len(others)
            states.append([cache.gather([start + index])[0] for index in range(len(lengths))])
    for other in states[1:]:
        for length, expected, found in zip(lengths, states[0], other, strict=True):
            assert torch.equal(expected, found), length


@pytest.mark.parametrize(
    ("value", "told"),
    [(float("nan"), r"NaN or infinity in bert.encoder.layer.1"), (3e38, "overflows float32, in which it is computed")],
)
def test_a_state_that_no_type_would_hold_is_not_blamed_on_the_type(model, encoded, value, told):
    with torch.no_grad():
        model.bert.encoder.layer[1].output.LayerNorm.weight.fill_(value)
        model.bert.encoder.layer[1].output.LayerNorm.bias.fill_(value)
    with pytest.raises(RunError, match=told):
        encoded()


def test_it_works_without_what_macos_and_windows_lack(encoded, monkeypatch, tmp_path):
    for name in ("posix_fallocate", "posix_fadvise", "getuid"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr("recipe.system.locks.fcntl", None)
    cache, tokens, key = encoded()
    assert cache.states.shape == (int(tokens.offsets[-1]), 32)
    assert open_store(tmp_path / "cache", key) is not None
    prune(tmp_path / "cache", 0)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_value_beyond_float16_is_said_and_leaves_nothing(arguments, tmp_path, tiny_model):
    broken = BertModel.from_pretrained(tiny_model, add_pooling_layer=False)
    with torch.no_grad():
        broken.encoder.layer[1].output.LayerNorm.bias[0] = 1e5
    broken.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "model")
    with pytest.raises(Exception, match="--prefix_cache_dtype float16"):
        train(arguments(f"--model_name_or_path={tmp_path / 'model'}", "--num_train_epochs=2", "--prefix_cache=on"))
    assert sum(each.pairs for each in list_caches(tmp_path / "cache")) == 0
