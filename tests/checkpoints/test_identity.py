import json
import shutil

import pytest
from transformers import BertConfig

from recipe.checkpoints.identity import ARITHMETIC
from recipe.errors import UserError
from tests.checkpoints.contents import other_model
from tests.utils import make_pairs, outcome, write_jsonl


@pytest.mark.parametrize("what", ["weights", "train", "dev", "labels", "tokenizer"])
def test_other_inputs_under_the_same_names_are_refused(begun, tmp_path, tiny_model, pairs_dir, what):
    _, again = begun
    data, model = tmp_path / "data", tmp_path / "model"
    shutil.copytree(pairs_dir, data)
    shutil.copytree(tiny_model, model)
    more = []
    if what == "weights":
        shutil.rmtree(model)
        other_model(tiny_model, model)
    elif what == "tokenizer":
        path = model / "tokenizer.json"
        content = json.loads(path.read_text())
        vocabulary = content["model"]["vocab"]
        vocabulary["花"], vocabulary["呗"] = vocabulary["呗"], vocabulary["花"]
        path.write_text(json.dumps(content))
    elif what == "labels":
        more = ["--label_names", "1", "0"]
    else:
        rows = make_pairs(70, 1) if what == "train" else make_pairs(30, 2)
        rows[5]["sentence1"] += "吗"
        write_jsonl(data / f"{what}.json", rows)
    told = {"weights": "the weights of", "labels": "labels 1 0: they were 0 1", "tokenizer": "its tokenizer"}
    expected = told.get(what, f"the {'validation' if what == 'dev' else what} data")
    with pytest.raises(UserError, match=expected):
        again(f"--data_dir={data}", f"--model_name_or_path={model}", *more)


def changed_model(tiny_model, folder, file, **values):
    shutil.copytree(tiny_model, folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **values}))
    return folder


@pytest.mark.parametrize(
    ("file", "name", "value", "was"),
    [
        ("config.json", "hidden_act", "relu", "gelu"),
        ("config.json", "num_attention_heads", 2, 4),
        ("config.json", "layer_norm_eps", 1e-5, 1e-12),
        ("config.json", "hidden_dropout_prob", 0.3, 0.1),
        ("config.json", "attention_probs_dropout_prob", 0.3, 0.1),
        ("tokenizer_config.json", "truncation_side", "left", "right"),
    ],
)
def test_a_base_of_the_same_weights_that_computes_otherwise_is_refused(
    begun, tmp_path, tiny_model, file, name, value, was
):
    _, again = begun
    model = changed_model(tiny_model, tmp_path / "model", file, **{name: value})
    what = "its config.json" if file == "config.json" else "its tokenizer"
    with pytest.raises(UserError, match=rf"^{what}: {name} {value}: it was {was} in .*checkpoint-9; "):
        again(f"--model_name_or_path={model}")


def test_all_that_a_bert_computes_with_is_in_the_identity():
    """Fails where upstream adds a field to a BERT's configuration: is it arithmetic, or one of those that are not?"""
    no_arithmetic = {"transformers_version", "model_type", "initializer_range", "use_cache", "add_cross_attention"}
    no_arithmetic |= {"bos_token_id", "eos_token_id", "tie_word_embeddings"}
    assert set(BertConfig().to_diff_dict()) == set(ARITHMETIC) | no_arithmetic


@pytest.mark.parametrize(
    "words",
    [
        ["--logging_steps=3", "--save_total_limit=5", "--per_device_eval_batch_size=5"],
        ["--no_streaming", "--dataloader_num_workers=1"],
        ["--freeze_layers=0,1"],  # the same in other words
    ],
)
def test_what_only_moves_the_work_about_is_free(begun, begun_once, tmp_path, words):
    _, again = begun
    again(*words)
    assert outcome(tmp_path)[0] == outcome(begun_once.parent)[0]


def test_moved_data_and_model_are_the_same_data_and_model(begun, begun_once, tmp_path, tiny_model, pairs_dir):
    _, again = begun
    shutil.copytree(pairs_dir, tmp_path / "moved data")
    shutil.copytree(tiny_model, tmp_path / "moved model")
    again(f"--data_dir={tmp_path / 'moved data'}", f"--model_name_or_path={tmp_path / 'moved model'}")
    assert outcome(tmp_path)[0] == outcome(begun_once.parent)[0]
