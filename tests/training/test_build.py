import torch

from recipe.batches.order import IGNORED_LABEL
from recipe.model.base_model import open_base
from recipe.model.loading import load_model
from recipe.model.tokenizer import load_tokenizer
from recipe.training.build import build_trainer, mean_loss


def test_a_rank_without_an_example_adds_nothing():
    logits = torch.randn(1, 2, requires_grad=True)
    for items in (None, 0, torch.tensor(0)):
        loss = mean_loss(0.1)({"logits": logits}, torch.tensor([IGNORED_LABEL]), items)
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()


def test_a_part_of_a_step_is_its_share_of_the_mean():
    logits, labels = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    loss = mean_loss(0.0)
    parts = sum(loss({"logits": logits[part]}, labels[part], 6) for part in (slice(0, 4), slice(4, 6)))
    torch.testing.assert_close(parts, torch.nn.functional.cross_entropy(logits, labels))
    torch.testing.assert_close(loss({"logits": logits}, labels), torch.nn.functional.cross_entropy(logits, labels))


def test_label_smoothing_is_not_lost(arguments):
    parsed = arguments("--label_smoothing_factor=0.3", "--eval_strategy=no")
    base = open_base(parsed.model)
    model = load_model(base).eval()
    trainer = build_trainer(parsed.training, model, load_tokenizer(base))
    batch = {"input_ids": torch.tensor([[2, 7, 3], [2, 8, 3]]), "labels": torch.tensor([0, 1])}
    logits = model(batch["input_ids"]).logits
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"], label_smoothing=0.3)
    torch.testing.assert_close(trainer.compute_loss(model, batch), expected)
