import json

from transformers import AutoTokenizer

from recipe.batches.tokenization import encode_pairs
from recipe.model.tokenizer import load_tokenizer, vocabulary_note
from tests.published import edit_json, open_folder, publish
from tests.utils import ROOT


def test_looking_at_a_tokenizer_leaves_it_as_it_was():
    demo = ROOT / "demo" / "model"
    ours, stock = load_tokenizer(open_folder(demo)), AutoTokenizer.from_pretrained(demo)
    assert ours.backend_tokenizer.padding is not None  # saved with it, as one that was called with padding=True
    assert ours.backend_tokenizer.to_str() == stock.backend_tokenizer.to_str()


def test_the_length_that_it_is_saved_with_is_its_runs_alone(model_copy):
    before = load_tokenizer(open_folder(model_copy)).backend_tokenizer.to_str()
    load_tokenizer(open_folder(model_copy), 8).save_pretrained(model_copy)
    saved = AutoTokenizer.from_pretrained(model_copy)
    assert len(saved("花呗" * 5, "借呗" * 5, truncation=True)["input_ids"]) == saved.model_max_length == 8
    longer = load_tokenizer(open_folder(model_copy), 32)
    assert [len(ids) for ids in encode_pairs(["花呗" * 5], ["借呗" * 5], longer, 32)[0]] == [23]
    assert longer.backend_tokenizer.to_str() == before  # what a resume compares


def test_lower_casing_is_the_checkpoints(tiny_model, tmp_path):
    for lower in (True, False):
        folder = publish(tiny_model, tmp_path / str(lower), "vocab-only")
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
        tokenizer = load_tokenizer(open_folder(folder))
        assert tokenizer.backend_tokenizer.normalizer.lowercase is lower


def test_a_vocabulary_much_smaller_than_the_embedding_is_said(tiny_model, model_copy):
    base = open_folder(tiny_model)
    assert vocabulary_note(base, load_tokenizer(base)) is None
    edit_json(model_copy / "config.json", vocab_size=90)
    base = open_folder(model_copy)
    assert "the embedding 90 rows: is it this model's?" in vocabulary_note(base, load_tokenizer(base))
