import pytest
import torch

from recipe.cache import finding
from recipe.cache.appending import append
from recipe.cache.key import make_key, pair_hashes
from recipe.cache.store import open_store
from tests.cache.contents import CPU


@pytest.fixture
def blocks(model, split_tokens, tmp_path):
    """A store of 70 pairs of random states in seven blocks, its hashes and tokens."""
    tokens, key = split_tokens(), make_key(model, "float32", "float32", CPU)
    hashes = pair_hashes(tokens)
    store = open_store(tmp_path, key, "train", create=True)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, 70, 10):
        lengths = tokens.lengths[start : start + 10]
        states = torch.randn(int(lengths.sum()), 32, generator=generator)
        append(store, hashes[start : start + 10], lengths.numpy(), states, 1.0)
    return open_store(tmp_path, key), hashes, tokens


@pytest.fixture
def asked(monkeypatch):
    """A list of how many pairs each pass has encoded."""
    counts, real = [], finding.encode

    def counted(job, missing, *more):
        counts.append(len(missing))
        real(job, missing, *more)

    monkeypatch.setattr(finding, "encode", counted)
    return counts
