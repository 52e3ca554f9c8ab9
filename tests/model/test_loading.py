import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForSequenceClassification

from recipe.arguments import ModelArguments
from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.model.base_model import name_labels, open_base
from recipe.model.loading import load_fine_tuned_model, load_model
from recipe.model.tokenizer import load_tokenizer, vocabulary_note
from tests.published import FORMS, edit_json, publish
from tests.utils import ROOT, make_pairs, write_jsonl

SENTENCES = ["花呗Can怎么 提前还款", "借呗Àé"], ["能不能！提前还", "什么时候"]


def open_folder(folder, **options):
    return open_base(ModelArguments(model_name_or_path=str(folder), **options))


def load(folder):
    base = open_folder(folder)
    return load_tokenizer(base), load_model(base)


@pytest.fixture
def model_copy(tiny_model, tmp_path):
    """A copy of the tiny model, to be changed."""
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("form", FORMS)
def test_every_published_form_gives_stock_tokens_and_stock_states(tiny_model, tmp_path, form):
    folder = publish(tiny_model, tmp_path / form, form)
    base = open_folder(folder)
    tokenizer, model = load_tokenizer(base), load_model(base).eval()
    stock_config = {"config": BertConfig.from_pretrained(folder)} if form == "old-wwm" else {}
    stock_tokenizer = AutoTokenizer.from_pretrained(folder, **stock_config)
    assert tokenizer.backend_tokenizer.to_str() == stock_tokenizer.backend_tokenizer.to_str()
    batch = tokenizer(*SENTENCES, padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == stock_tokenizer(*SENTENCES, padding=True)["input_ids"]
    stock = AutoModel.from_pretrained(folder, **stock_config).eval()
    model.prefix_depth = model.config.num_hidden_layers
    ours = model.run_prefix(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    torch.testing.assert_close(ours[:, 0], stock(**batch).last_hidden_state[:, 0], rtol=0, atol=2e-6)
    assert "task_type" not in " ".join(model.state_dict())


def test_looking_at_a_tokenizer_leaves_it_as_it_was():
    demo = ROOT / "demo" / "model"
    ours, stock = load_tokenizer(open_folder(demo)), AutoTokenizer.from_pretrained(demo)
    assert ours.backend_tokenizer.padding is not None  # saved with it, as one that was called with padding=True
    assert ours.backend_tokenizer.to_str() == stock.backend_tokenizer.to_str()


def test_lower_casing_is_the_checkpoints(tiny_model, tmp_path):
    for lower in (True, False):
        folder = publish(tiny_model, tmp_path / str(lower), "vocab-only")
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
        tokenizer = load_tokenizer(open_folder(folder))
        assert tokenizer.backend_tokenizer.normalizer.lowercase is lower


def test_what_a_base_is_used_for_elsewhere_changes_neither_answers_nor_the_save(tiny_model, model_copy, arguments):
    strange = {"output_attentions": True, "output_hidden_states": True, "problem_type": "regression"}
    strange |= {"is_decoder": True, "num_labels": 1, "chunk_size_feed_forward": 5, "torchscript": True}
    edit_json(model_copy / "config.json", **strange)
    ids = torch.tensor([[2, 7, 8, 3, 9, 3]])
    torch.manual_seed(0)
    expected = load_model(open_folder(tiny_model)).eval()
    torch.manual_seed(0)
    model = load_model(open_folder(model_copy)).eval()
    assert torch.equal(model(ids).logits, expected(ids).logits)
    report = train(arguments(f"--model_name_or_path={model_copy}"))
    assert 0 <= report.metrics["eval_accuracy"] <= 1


def remove_vocabulary(folder):
    (folder / "tokenizer.json").unlink()


def replace_vocabulary(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (folder / "vocab.txt").write_text("<html>\n<body>\nnot found\n</body>\n")


def pickle_weights(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": print}))


def insert_tokens(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    words = [
        *list(content["model"]["vocab"])[:5],
        *(f"词{n}" for n in range(300)),
        *list(content["model"]["vocab"])[5:],
    ]
    content["model"]["vocab"] = {word: number for number, word in enumerate(words)}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def drop_token(token):
    def apply(folder):
        """The tokenizer adds the token behind the vocabulary, where the embedding has rows that were never trained."""
        vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
        words = [word if word != token else "词" for word in sorted(vocabulary, key=vocabulary.get)]
        (folder / "vocab.txt").write_text("\n".join(words))
        edit_json(folder / "config.json", vocab_size=len(words) + 4)
        name = "embeddings.word_embeddings.weight"
        change_weight(name, lambda value: torch.cat([value, value[:4]]))(folder)

    return apply


def rename_config(folder):
    (folder / "config.json").rename(folder / "bert_config.json")


def point_weights(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def change_weight(name, change):
    def apply(folder):
        state = load_file(folder / "model.safetensors")
        state[name] = change(state[name])
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def one_type(folder):
    edit_json(folder / "config.json", type_vocab_size=1)
    change_weight("embeddings.token_type_embeddings.weight", lambda value: value[:1].contiguous())(folder)


def set_config(**values):
    return lambda folder: edit_json(folder / "config.json", **values)


QUERY = "encoder.layer.1.attention.self.query.weight"
DAMAGES = [
    (remove_vocabulary, "its tokenizer has no vocabulary; vocab.txt or tokenizer.json is expected"),
    (insert_tokens, "its tokenizer has ids up to 3"),
    (drop_token("[CLS]"), "its vocabulary lacks [CLS], [SEP] or [PAD]"),
    (drop_token("[PAD]"), "its vocabulary lacks [CLS], [SEP] or [PAD]"),
    (rename_config, "no config.json in it; rename bert_config.json to that"),
    (lambda folder: (folder / "tokenizer.json").write_text("<html>"), "its tokenizer cannot be loaded: JSONDecode"),
    (lambda folder: (folder / "model.safetensors").write_text(""), "its weights cannot be loaded: Safetensor"),
    (point_weights, "model.safetensors is a git-LFS pointer, not the file that it stands for"),
    (change_weight(QUERY, lambda value: value / 0), f"bert.{QUERY} holds NaN or infinity"),
    (change_weight(QUERY, lambda value: value[:3].contiguous()), f"it has another shape of {QUERY}"),
    (one_type, "type_vocab_size 1 in its config.json; 2 is expected"),
    (set_config(num_hidden_layers=3), "it holds an unexpected encoder.layer.3."),
    (set_config(num_hidden_layers=5), "it has no encoder.layer.4."),
    (set_config(model_type="roberta"), "a roberta model; a BERT, ERNIE or ELECTRA checkpoint is expected, such as goo"),
    (
        set_config(model_type="electra", embedding_size=8),
        "an ELECTRA of embedding_size 8 and hidden_size 32, which",
    ),
    (set_config(model_type="electra", embedding_size=None), "an ELECTRA of embedding_size 128 and hidden_size 32"),
    (set_config(model_type=None, architectures=["RobertaModel"]), "a model without model_type; a BERT, ERNIE"),
    (set_config(position_embedding_type="relative_key"), "position_embedding_type relative_key: "),
    (set_config(quantization_config={"bits": 4}), "quantization_config {'bits': 4}: weights in full precision"),
    (set_config(hidden_size="wide"), "cannot be loaded: "),
    (set_config(num_attention_heads=5), "cannot be loaded: "),
    (set_config(hidden_act="swoosh"), "cannot be loaded: ValueError: hidden_act 'swoosh' in its config.json; gelu"),
    (set_config(num_hidden_layers=0), "num_hidden_layers 0 in its config.json; 1 to 1,000 are expected"),
    (set_config(num_hidden_layers=10**9), "num_hidden_layers 1000000000 in its config.json; 1 to 1,000 are"),
    (change_weight(QUERY, torch.zeros_like), f"bert.{QUERY} holds whole numbers alone"),
    (change_weight(QUERY, lambda value: (value * 127).to(torch.int8)), f"bert.{QUERY} holds whole numbers alone"),
    (pickle_weights, "pytorch_model.bin holds other things than weights, which are not loaded; model.safetensors"),
    (replace_vocabulary, "its vocabulary lacks [CLS], [SEP] or [PAD]; BERT's is expected"),
]


@pytest.mark.parametrize(("damage", "told"), DAMAGES)
def test_a_checkpoint_that_cannot_be_meant_is_one_line(model_copy, damage, told):
    damage(model_copy)
    with pytest.raises(UserError) as error:
        load(model_copy)
    assert str(error.value).startswith(f"--model_name_or_path {model_copy}: ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def without_task(state):
    return {name: value for name, value in state.items() if "task_type" not in name}


@pytest.mark.parametrize(
    ("config", "change", "told"),
    [
        (
            {},
            without_task,
            "it has no embeddings.task_type_embeddings.weight",
        ),  # stock: of random numbers, added to all
        ({"task_type_vocab_size": 5}, dict, "it has another shape of embeddings.task_type_embeddings.weight"),
        ({"use_task_id": False}, without_task, None),
        ({"is_decoder": True, "add_cross_attention": True}, dict, None),
    ],
)
def test_an_ernie_is_folded_whole_or_refused(tiny_model, tmp_path, config, change, told):
    folder = publish(tiny_model, tmp_path / "ernie", "ernie")
    torch.save(change(torch.load(folder / "pytorch_model.bin")), folder / "pytorch_model.bin")
    edit_json(folder / "config.json", **config)
    if told is not None:
        with pytest.raises(UserError, match=told):
            load(folder)
        return
    ids = torch.tensor([[2, 7, 8, 3, 9, 3]])
    edit_json(folder / "config.json", is_decoder=None, add_cross_attention=None)
    stock = AutoModel.from_pretrained(folder).eval()(ids).last_hidden_state
    edit_json(folder / "config.json", **config)
    model = load(folder)[1].eval()
    model.prefix_depth = model.config.num_hidden_layers
    torch.testing.assert_close(model.run_prefix(ids, None, None)[:, 0], stock[:, 0], rtol=0, atol=2e-6)


def test_a_vocabulary_much_smaller_than_the_embedding_is_said(tiny_model, model_copy):
    base = open_folder(tiny_model)
    assert vocabulary_note(base, load_tokenizer(base)) is None
    edit_json(model_copy / "config.json", vocab_size=90)
    base = open_folder(model_copy)
    assert "the embedding 90 rows: is it this model's?" in vocabulary_note(base, load_tokenizer(base))


@pytest.mark.parametrize(
    ("name", "owner"),
    [("bert-base-chinese", "google-bert"), ("chinese-roberta-wwm-ext", "hfl"), ("ernie-3.0-base-zh", "nghuyong")],
)
def test_a_name_without_its_owner_is_answered_with_it(name, owner):
    with pytest.raises(UserError, match=f"did you mean {owner}/{name}"):
        open_folder(name)


@pytest.fixture(scope="module")
def stock_classifier(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock") / "model"
    torch.manual_seed(1)
    BertForSequenceClassification.from_pretrained(tiny_model, num_labels=2).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model / name, folder)
    return folder


def test_a_stock_classifier_is_neither_reused_nor_scored(stock_classifier, pairs_dir):
    base = open_folder(stock_classifier)
    assert name_labels(base, ["LABEL_0", "LABEL_1"]) is False
    torch.manual_seed(2)
    model = load_model(base)
    stored = load_file(stock_classifier / "model.safetensors")["classifier.weight"]
    assert not torch.equal(model.classifier.weight, stored)
    assert float(model.classifier.weight.detach().std()) < 0.1  # drawn anew
    for task in ("--do_eval", "--do_predict"):
        words = [task, f"--model_name_or_path={stock_classifier}", f"--data_dir={pairs_dir}", "--use_cpu"]
        with pytest.raises(UserError, match="a stock one's reads a pooler and would answer otherwise"):
            evaluate(parse(words))


def test_a_run_goes_on_with_its_classifier_only_under_the_same_names(arguments, tmp_path, capsys):
    train(arguments())
    run = tmp_path / "run"
    stored = load_file(run / "model.safetensors")["classifier.weight"]
    for names, kept in ((["0", "1"], True), (["1", "0"], False), (["no", "yes"], False), (["0", "1", "2"], False)):
        base = open_folder(run)
        assert name_labels(base, names) is kept
        assert torch.equal(load_model(base, keep_classifier=kept).classifier.weight, stored) is kept
    assert torch.equal(load_fine_tuned_model(open_folder(run)).classifier.weight, stored)
    capsys.readouterr()
    train(arguments(f"--model_name_or_path={run}", f"--output_dir={tmp_path / 'second'}"))
    assert f"classifier: goes on from that of {run}; labels different, same" in capsys.readouterr().out
    rows = [{**row, "label": "yes" if row["label"] == "1" else "no"} for row in make_pairs(24)]
    for split in ("train", "dev"):
        write_jsonl(tmp_path / f"{split}.json", rows)
    words = [f"--data_dir={tmp_path}", "--label_names", "yes", "no", f"--output_dir={tmp_path / 'third'}"]
    train(arguments(f"--model_name_or_path={run}", *words))
    assert "classifier: new; labels yes, no" in capsys.readouterr().out
