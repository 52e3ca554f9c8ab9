import torch

from recipe.batches.order import IGNORED_LABEL
from recipe.training.build import mean_loss


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
