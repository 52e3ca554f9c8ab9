import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    Trainer,
    TrainingArguments,
    pipeline,
)

from recipe.arguments import ModelArguments
from recipe.model.base_model import name_labels, open_base
from recipe.model.loading import load_model


def load(folder, **options):
    return load_model(open_base(ModelArguments(model_name_or_path=str(folder), **options)))


def padded_batch():
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (4, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = mask[2, 3:] = 0
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": (torch.arange(9) > 4).long().expand(4, 9)}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", [True, False])
def test_equals_a_plain_bert_with_gradients(tiny_model, attention, padded):
    model = load(tiny_model, attn_implementation=attention).eval()
    plain = BertModel.from_pretrained(tiny_model, add_pooling_layer=False, attn_implementation=attention).eval()
    batch = padded_batch()
    if not padded:
        batch.pop("attention_mask")
    logits = model(**batch).logits
    expected = model.classifier(plain(**batch).last_hidden_state[:, 0])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    weights = torch.linspace(-1, 1, logits.numel()).view_as(logits)
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    ours = dict(model.bert.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(ours[name].grad, parameter.grad, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: n + m)


def test_the_models_own_loss_is_of_what_its_labels_are(tiny_model):
    batch = padded_batch()
    classes, scores = torch.tensor([1, 0, -100, 1]), torch.tensor([0.5, 4.0, -100.0, -1.0])
    model = load(tiny_model).eval()
    found = model(**batch, labels=classes)
    torch.testing.assert_close(found.loss, torch.nn.functional.cross_entropy(found.logits, classes))
    base = open_base(ModelArguments(model_name_or_path=str(tiny_model)))
    name_labels(base, ["score"], "pairs")
    model = load_model(base).eval()
    found, kept = model(**batch, labels=scores), scores != -100
    assert found.logits.shape == (4, 1)
    torch.testing.assert_close(found.loss, torch.nn.functional.mse_loss(found.logits[kept, 0], scores[kept]))
    assert model(**batch, labels=torch.full((4,), -100.0)).loss == 0


def test_every_parameter_is_in_the_graph(tiny_model):
    model = load(tiny_model).train()
    model(**padded_batch(), labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_dropout_overrides_all_three(tiny_model):
    model = load(tiny_model, dropout=0.25)
    rates = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.25}


def test_half_precision_checkpoint_loads_as_float32(tiny_model, tmp_path):
    BertModel.from_pretrained(tiny_model, add_pooling_layer=False).half().save_pretrained(tmp_path)
    assert {parameter.dtype for parameter in load(tmp_path).parameters()} == {torch.float32}


def test_saved_model_needs_its_code_and_gives_the_same_logits(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = load(tiny_model).eval()
    model.config.id2label = {0: "different", 1: "same"}
    model.save_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", trust_remote_code=False)
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoConfig.from_pretrained(tmp_path / "saved", trust_remote_code=False)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", trust_remote_code=True).eval()
    batch = padded_batch()
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    classify = pipeline("text-classification", str(tmp_path / "saved"), trust_remote_code=True, top_k=None)
    answers = classify({"text": "怎么提前还款", "text_pair": "能不能提前还"})
    encoded = tokenizer("怎么提前还款", "能不能提前还", return_tensors="pt")
    expected = model(**encoded).logits.softmax(-1)[0]
    got = {answer["label"]: answer["score"] for answer in answers}
    assert got["different"] == pytest.approx(expected[0].item(), abs=1e-6)
    assert got["same"] == pytest.approx(expected[1].item(), abs=1e-6)


def test_upstream_layer_still_has_what_the_last_layer_leans_on(tiny_model):
    layer = BertModel.from_pretrained(tiny_model, add_pooling_layer=False).encoder.layer[-1]
    attention = layer.attention.self
    assert {name for name, _ in attention.named_children()} == {"query", "key", "value", "dropout"}
    assert attention.scaling == attention.attention_head_size**-0.5
    assert {name for name, _ in layer.named_children()} == {"attention", "intermediate", "output"}


def test_loss_is_not_taken_for_one_that_counts_items(tiny_model, tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert Trainer(model=load(tiny_model), args=args).model_accepts_loss_kwargs is False
