import os

import pytest
import torch

from recipe.arguments import FreezeArguments
from recipe.cache.encoding import Encoding, encode
from recipe.cache.key import arithmetic_of, make_key
from recipe.cache.prefix_cache import open_cache
from recipe.commands.prefix_cache import prune
from recipe.errors import RunError
from recipe.model.freezing import freeze
from recipe.system.distributed import Share

PAIRS_OF_TYPES = [("float32", "float32"), ("float16", "float32"), ("bfloat16", "float32")]
PAIRS_OF_TYPES += [("float32", "bfloat16"), ("float16", "bfloat16"), ("bfloat16", "bfloat16")]


@pytest.mark.parametrize(("dtype", "compute_dtype"), PAIRS_OF_TYPES)
@pytest.mark.parametrize("layers", ["0-2", "all"])
def test_going_on_from_a_shallower_cache_gives_the_bytes_of_one_pass(
    model,
    split_tokens,
    arguments,
    tmp_path,
    dtype,
    compute_dtype,
    layers,
):
    args, tokens, caches = arguments().training, split_tokens(), {}
    for name, depths in (("one pass", [layers]), ("in steps", ["0", "0-1", layers])):
        for depth in depths:
            freeze(model, FreezeArguments(freeze_layers=depth))
            key = make_key(model, tokens, dtype, compute_dtype)
            caches[name] = encode(Encoding(model, tokens, key, tmp_path / name, "train"), args, Share.of(args))
    extended = dtype == "float32" or compute_dtype == "bfloat16"  # else a step in 16 bits would cost digits
    assert caches["in steps"].manifest["extended_from_depth"] == (2 if extended else None)
    assert caches["one pass"].manifest["extended_from_depth"] is None
    assert torch.equal(caches["in steps"].states, caches["one pass"].states)
    assert caches["in steps"].manifest["crc32"] == caches["one pass"].manifest["crc32"]


def test_another_arithmetic_does_not_meet_an_old_cache(model, split_tokens, arguments, monkeypatch):
    args, tokens, names = arguments().training, split_tokens(), set()

    def note():
        names.add(make_key(model, tokens, "float32", "float32", arithmetic_of(args)).name)

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
    assert open_cache(tmp_path / "cache", key, tokens) is not None
    prune(tmp_path / "cache", 0)
    assert list((tmp_path / "cache").iterdir()) == []
