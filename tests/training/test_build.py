import torch

from recipe.model.base_model import open_base
from recipe.model.loading import load_model
from recipe.model.tokenizer import load_tokenizer
from recipe.training.build import build_trainer


def test_label_smoothing_is_not_lost(arguments):
    parsed = arguments("--label_smoothing_factor=0.3", "--eval_strategy=no")
    base = open_base(parsed.model)
    model = load_model(base).eval()
    trainer = build_trainer(parsed.training, model, load_tokenizer(base))
    batch = {"input_ids": torch.tensor([[2, 7, 3], [2, 8, 3]]), "labels": torch.tensor([0, 1])}
    logits = model(batch["input_ids"]).logits
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"], label_smoothing=0.3)
    torch.testing.assert_close(trainer.compute_loss(model, batch), expected)
