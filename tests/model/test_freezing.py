import pytest
import torch

from recipe.arguments import FreezeArguments
from recipe.errors import UserError
from recipe.model.freezing import freeze, is_frozen, make_plan, parse_layers, prefix_depth, wasteful_choices
from recipe.model.modeling import BertForPairwiseCLS, BertPairwiseCLSConfig


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("0-9", set(range(10))),
        ("0-5,8", {0, 1, 2, 3, 4, 5, 8}),
        ("1", {1}),
        ("all", set(range(12))),
        ("none", set()),
        (None, set(range(10))),
    ],
)
def test_layer_grammar(spec, expected):
    assert parse_layers(spec, 12) == expected


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("9-0", "0-9 is expected"),
        ("0-99", "0-11"),
        ("a", "all or none"),
        ("", "all or none"),
        ("1,,2", "all"),
        ("-1", "all"),
    ],
)
def test_layer_grammar_refuses(spec, told):
    with pytest.raises(UserError, match=rf"--freeze_layers .*{told}"):
        parse_layers(spec, 12)


def test_layer_1_is_not_layers_10_and_11():
    shape = {"vocab_size": 9, "hidden_size": 4, "num_attention_heads": 1, "intermediate_size": 4}
    model = BertForPairwiseCLS(BertPairwiseCLSConfig(**shape, num_hidden_layers=12))
    freeze(model, FreezeArguments(freeze_layers="1"))
    assert [index for index, layer in enumerate(model.bert.encoder.layer) if is_frozen(layer)] == [1]


def test_layer_0_takes_the_embeddings_along(model):
    freeze(model, FreezeArguments(freeze_layers="0-1"))
    assert not any(name.startswith("bert.embeddings.") for name in trainable(model))
    assert model.prefix_depth == 2
    freeze(model, FreezeArguments(freeze_layers="0-1", freeze_embeddings=False))
    assert any(name.startswith("bert.embeddings.") for name in trainable(model))
    assert model.prefix_depth is None


@pytest.mark.parametrize(("spec", "depth"), [("all", 4), ("none", None), ("0,2", 1), ("1-2", None), (None, 2)])
def test_prefix_depth(model, spec, depth):
    freeze(model, FreezeArguments(freeze_layers=spec))
    assert prefix_depth(model) == depth
    assert {"classifier.weight", "classifier.bias"} <= trainable(model)


def test_bitfit_trains_biases_and_the_classifier_only(model):
    freeze(model, FreezeArguments(freeze_layers="all", unfreeze_modules=[r"\.bias$"]))
    assert all(name.endswith(".bias") or name.startswith("classifier.") for name in trainable(model))
    assert model.prefix_depth is None


@pytest.mark.parametrize("pattern", ["nothing_like_it", "classifier", "("])
def test_pattern_without_a_match_is_refused_with_what_there_is(model, pattern):
    with pytest.raises(UserError, match="--freeze_modules") as error:
        freeze(model, FreezeArguments(freeze_modules=[pattern]))
    if pattern != "(":
        assert "bert.encoder.layer.N.attention.self.query.weight" in str(error.value)


def test_frozen_modules_stay_in_eval_mode_through_train(model):
    freeze(model, FreezeArguments(freeze_layers="0-1"))
    model.eval()
    model.train()
    assert not any(module.training for module in model.bert.embeddings.modules())
    assert [layer.training for layer in model.bert.encoder.layer] == [False, False, True, True]
    assert model.dropout.training
    batch = {"input_ids": torch.randint(5, 40, (3, 7)), "attention_mask": torch.ones(3, 7), "token_type_ids": None}
    assert torch.equal(model.run_prefix(**batch), model.run_prefix(**batch))


def test_frozen_dropout_gives_the_stock_behaviour_back(model):
    freeze(model, FreezeArguments(freeze_layers="0-1", frozen_dropout=True))
    model.train()
    assert all(module.training for module in model.modules())


def test_checkpointing_does_not_send_backward_through_frozen_layers(model):
    freeze(model, FreezeArguments(freeze_layers="0-1"))
    model.train()
    model.activation_checkpointing_enable()
    states = model.bert.embeddings(input_ids=torch.randint(5, 40, (3, 7)))
    assert not states.requires_grad
    seen = []
    model.bert.encoder.layer[0].register_full_backward_hook(lambda *_: seen.append(0))
    model(input_ids=torch.randint(5, 40, (3, 7)), labels=torch.tensor([0, 1, 0])).loss.backward()
    assert seen == []
    assert model.bert.encoder.layer[2].attention.self.query.weight.grad is not None


def test_plan_counts_every_parameter(model):
    freeze(model, FreezeArguments(freeze_layers="0-2"))
    plan = make_plan(model)
    assert [row.module for row in plan.rows] == ["embeddings", "layer 0", "layer 1", "layer 2", "layer 3", "classifier"]
    assert plan.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert plan.trainable == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("args", "checkpointing", "words"),
    [
        (FreezeArguments(freeze_layers="0-1"), False, []),
        (FreezeArguments(freeze_layers="none"), True, []),
        (FreezeArguments(freeze_layers="0-1", freeze_embeddings=False), False, ["embeddings are trained"]),
        (FreezeArguments(freeze_layers="1-2"), False, ["layers 1-2 are frozen above"]),
        (FreezeArguments(freeze_layers="0,2"), False, ["layers 2 are frozen above"]),
        (FreezeArguments(freeze_layers="0-1"), True, ["activation checkpointing"]),
    ],
)
def test_wasteful_choices_are_said(model, args, checkpointing, words):
    freeze(model, args)
    lines = list(wasteful_choices(make_plan(model), checkpointing))
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines, strict=True))


def test_a_model_in_training_is_not_walked_again(model, monkeypatch):
    """Trainer.training_step calls `train()` before every step."""
    walked, real = [], torch.nn.Module.train
    monkeypatch.setattr(torch.nn.Module, "train", lambda self, mode=True: walked.append(self) or real(self, mode))
    for _ in range(3):
        model.train()
    assert walked.count(model) == 1
    model.eval()
    model.train()
    assert walked.count(model) == 3


def test_frozen_modes_are_set_anew_where_freezing_changed(model):
    freeze(model, FreezeArguments(freeze_layers="0"))
    model.train()
    freeze(model, FreezeArguments(freeze_layers="0-2"))
    model.train()
    assert not any(module.training for module in model.bert.encoder.layer[2].modules())
    freeze(model, FreezeArguments(freeze_layers="none"))
    model.train()
    assert all(module.training for module in model.modules())
    model.eval()
    assert not any(module.training for module in model.modules())
