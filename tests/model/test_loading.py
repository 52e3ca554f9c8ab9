import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, BertConfig

from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.model.loading import load_model
from recipe.model.tokenizer import load_tokenizer
from tests.published import FORMS, WEIGHTS, edit_json, open_folder, publish

SENTENCES = ["花呗Can怎么 提前还款", "借呗Àé"], ["能不能！提前还", "什么时候"]


def load(folder):
    base = open_folder(folder)
    return load_tokenizer(base), load_model(base)


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


def test_an_ernie_in_half_precision_is_folded_in_float32(tiny_model, tmp_path):
    folder = publish(tiny_model, tmp_path / "ernie", "ernie")
    state = {name: value.half() for name, value in torch.load(folder / WEIGHTS).items()}
    torch.save(state, folder / WEIGHTS)
    embeddings = "ernie.embeddings.{}_type_embeddings.weight"
    expected = state[embeddings.format("token")].float() + state[embeddings.format("task")][0].float()
    assert torch.equal(load(folder)[1].bert.embeddings.token_type_embeddings.weight, expected)


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


def as_old_sentence_transformers(folder):
    files = list(folder.iterdir())
    (folder / "0_BERT").mkdir()
    for path in files:
        path.rename(folder / "0_BERT" / path.name)
    (folder / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "0_BERT"}]')
    (folder / "config.json").write_text('{"__version__": "0.2.4"}')


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
    (as_old_sentence_transformers, "/0_BERT; name that folder"),
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


def test_evaluation_refuses_a_model_without_a_classifier(tiny_model, pairs_dir):
    with pytest.raises(UserError, match="not a model that this recipe saved"):
        evaluate(parse(["--do_eval", f"--model_name_or_path={tiny_model}", f"--data_dir={pairs_dir}", "--use_cpu"]))
