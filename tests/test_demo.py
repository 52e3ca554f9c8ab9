import json
import sys

import pytest
from transformers import AutoTokenizer

from tests.utils import ROOT

DEMO = ROOT / "demo"


@pytest.fixture
def build(monkeypatch):
    monkeypatch.syspath_prepend(str(DEMO))
    import build

    yield build
    sys.modules.pop("build")


def rows(split):
    return [json.loads(line) for line in (DEMO / "data" / f"{split}.json").read_text(encoding="utf-8").splitlines()]


def test_build_makes_the_data_again_byte_for_byte(build, tmp_path):
    build.write_data(tmp_path)
    for split in ("train", "dev", "test"):
        assert (tmp_path / f"{split}.json").read_bytes() == (DEMO / "data" / f"{split}.json").read_bytes()


def test_the_majority_is_afqmcs_and_overlap_does_not_tell():
    overlap = {"0": [], "1": []}
    for row in rows("train"):
        first, second = set(row["sentence1"]), set(row["sentence2"])
        overlap[row["label"]].append(len(first & second) / len(first | second))
    share = len(overlap["1"]) / 4000
    assert share == pytest.approx(0.31)
    means = {label: sum(values) / len(values) for label, values in overlap.items()}
    assert abs(means["0"] - means["1"]) < 0.1


def test_the_model_is_small_and_knows_every_character():
    assert sum(path.stat().st_size for path in (DEMO / "model").iterdir()) < 8e6
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "model")
    for split in ("train", "dev", "test"):
        texts = [row[key] for row in rows(split) for key in ("sentence1", "sentence2")]
        assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts)["input_ids"])
