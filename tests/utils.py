"""What the tests have in common: small data and models, and what a run left behind."""

import hashlib
import json
import os
import random
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings
from transformers import BertConfig, BertModel, BertTokenizer

from recipe.arguments import DataArguments
from recipe.cache import key
from recipe.checkpoints.rotation import checkpoint_folders
from recipe.rows.forms import Form
from recipe.rows.readers import read_rows, with_quoting

ROOT = Path(__file__).parents[1]

CHARACTERS = "我你他的花呗借还款怎么提前能不吗什时候可以额度开通关闭信用卡账单分期利息手机号换"


def spend_little():
    """Have this process wait for nothing that no test can see."""
    torch.set_num_threads(1)  # the tests share the cores between them; threads of tiny operations would only wait
    os.fsync = lambda handle: None  # what a disk keeps when power is lost is simulated in tests/power_loss.py
    key.WIDTH = 32  # the tiny model's own: batches as full as those of BERT-base, and not 24 times as many pairs


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


def make_scored(count: int, seed: int = 0) -> list[dict[str, str | float]]:
    """Pairs of random characters whose label is a number from 0 to 5: how alike their lengths are."""
    rows = make_pairs(count, seed)
    lengths = [sorted(len(row[key]) for key in ("sentence1", "sentence2")) for row in rows]
    return [{**row, "label": round(5 * a / b, 2)} for row, (a, b) in zip(rows, lengths, strict=True)]


def rows_of(path, **flags):
    """A file's records, read as the flags say."""
    return read_rows(path, with_quoting(path, Form.of(path, DataArguments(**flags))))


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


def history(output_dir, key):
    """The values of `key` that the run logged, step by step."""
    checkpoint = max(Path(output_dir).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    return [entry[key] for entry in state["log_history"] if key in entry]


def assert_close(a, b, tolerance):
    torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=0, atol=tolerance)


def outcome(folder):
    """A sha256 of what a run has trained, and what lies in its folder.

    Of the final model and of the newest checkpoint's weights: the former may be the best, of a step long before, which
    no later step changes any more.
    """
    run = folder / "run"
    trained = [run / "model.safetensors", *(path / "trainable.safetensors" for path in checkpoint_folders(run)[:1])]
    weights = hashlib.sha256(b"".join(path.read_bytes() for path in trained)).hexdigest()
    return weights, sorted(str(path.relative_to(run)) for path in run.rglob("*"))


def snapshot(folder):
    """Every file under a folder with its bytes, by its relative path."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


KEYS = ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy")


QUICK = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Payload:
    """What a pickle of it runs when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def examples(count, seed=0):
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        length = rng.randint(3, 40)
        rows.append({"input_ids": [number] * length, "token_type_ids": [0] * length, "labels": number % 2})
    return rows
