"""A tiny BERT and a few dozen pairs, made once a session; no test reaches a network."""

import json
import os
import random
import tempfile

os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="freeze-recipe-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel, BertTokenizer

from recipe.arguments import FreezeArguments, ModelArguments
from recipe.base_model import open_base
from recipe.cache_key import make_key
from recipe.data import open_split
from recipe.encoding import Encoding, encode
from recipe.freezing import freeze
from recipe.loading import load_model
from recipe.parsing import parse
from recipe.ranks import Share
from recipe.splits import iterate_batches
from recipe.tokens import read_tokens
from recipe.truncation import tokenize

torch.set_num_threads(1)

CHARACTERS = "我你他的花呗借还款怎么提前能不吗什时候可以额度开通关闭信用卡账单分期利息手机号换"


def make_pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Pairs of random characters, of many lengths; the label says whether the first characters agree."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        sentences = ["".join(rng.choices(CHARACTERS, k=rng.randint(2, 14))) for _ in range(2)]
        label = str(rng.randint(0, 1))
        if label == "1":
            sentences[1] = sentences[0][:1] + sentences[1][1:]
        rows.append({"sentence1": sentences[0], "sentence2": sentences[1], "label": label})
    return rows


torch.set_num_threads(1)  # the tests share the cores between them; threads of tiny operations would only wait


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make_tiny_model(folder):
    torch.manual_seed(0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(CHARACTERS))]
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, model_max_length=64)
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **shape)
    model = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


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
    """A function: storage type -> the cache of the tiny model's prefix over the training split, its tokens and key."""

    def build(dtype="float32", compute_dtype="float32"):
        tokens = split_tokens()
        key = make_key(model, tokens, dtype, compute_dtype)
        args = arguments().training
        return encode(Encoding(model, tokens, key, tmp_path / "cache", "train"), args, Share.of(args)), tokens, key

    return build
