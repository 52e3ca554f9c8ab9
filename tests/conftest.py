"""A tiny BERT and a few dozen pairs, made once a session; no test reaches a network."""

import gc
import os
import signal
import tempfile

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="freeze-recipe-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from transformers import AutoTokenizer

from recipe.arguments import FreezeArguments, ModelArguments
from recipe.batches.tokenization import tokenize
from recipe.batches.tokens import read_tokens
from recipe.cache.encoding import Encoding
from recipe.cache.finding import find_or_encode
from recipe.cache.key import make_key, pair_hashes
from recipe.command_line.parsing import parse
from recipe.data.opening import open_split
from recipe.data.splits import iterate_batches
from recipe.model.base_model import open_base
from recipe.model.freezing import freeze
from recipe.model.loading import load_model
from tests.utils import make_pairs, make_tiny_model, spend_little, write_jsonl

spend_little()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by a shell's &, and what the tests start would have it so too
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _imports_are_no_garbage():
    """Each run of a Trainer collects garbage, which would walk all that the libraries have made when imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with a 4-layer BERT of hidden size 32 and its tokenizer."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def pairs_dir(tmp_path_factory):
    """A folder with train (70 pairs), dev (30) and test (20, without labels)."""
    folder = tmp_path_factory.mktemp("pairs")
    write_jsonl(folder / "train.json", make_pairs(70, 1))
    write_jsonl(folder / "dev.json", make_pairs(30, 2))
    test = [{"id": i, **{k: v for k, v in row.items() if k != "label"}} for i, row in enumerate(make_pairs(20, 3))]
    write_jsonl(folder / "test.json", test)
    return folder


@pytest.fixture
def arguments(tiny_model, pairs_dir, tmp_path):
    """A function: extra command-line words -> the parsed arguments of a small run in a folder of its own."""

    def build(*words: str):
        base = {
            "model_name_or_path": tiny_model,
            "data_dir": pairs_dir,
            "freeze_layers": "0-1",
            "max_length": 32,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 1,
            "logging_steps": 1,
            "output_dir": tmp_path / "run",
            "use_cpu": "true",
            "bf16": "false",  # so that a test asks for the same digits on every processor
            "prefix_compute_dtype": "float32",  # likewise
            "model_card": "false",
            "prefix_cache_dir": tmp_path / "cache",
        }
        return parse([f"--{key}={value}" for key, value in base.items()] + list(words))

    return build


@pytest.fixture
def model(tiny_model):
    """The tiny model, its layers 0 and 1 and the embeddings frozen."""
    args = ModelArguments(model_name_or_path=str(tiny_model))
    base = open_base(args)
    model = load_model(base).eval()
    freeze(model, FreezeArguments(freeze_layers="0-1"))
    return model


@pytest.fixture
def split_tokens(arguments, tiny_model):
    """A function: max_length -> the training split's tokens."""
    data = arguments().data
    return lambda max_length=32: read_tokens(
        iterate_batches(
            tokenize(open_split(data, "train").pairs, AutoTokenizer.from_pretrained(tiny_model), max_length)
        )
    )


@pytest.fixture
def encoded(model, split_tokens, arguments, tmp_path):
    """A function: types -> the training split in the tiny model's prefix cache, found or made, its tokens and key."""

    def build(dtype="float32", compute_dtype="float32", tokens=None, directory=tmp_path / "cache"):
        tokens = split_tokens() if tokens is None else tokens
        key = make_key(model, dtype, compute_dtype, torch.device("cpu"))
        job = Encoding(model, tokens, pair_hashes(tokens), key, directory, "train")
        (cache,) = find_or_encode([job], arguments().training)
        return cache, tokens, key

    return build
