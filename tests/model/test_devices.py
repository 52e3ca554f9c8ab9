"""That all tensors of a step meet on one device, told without one: each has a device and no values, in a fake mode."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recipe.arguments import FreezeArguments
from recipe.model.freezing import freeze
from recipe.model.modeling import BertForPairwiseCLS, BertPairwiseCLSConfig
from recipe.training.loss import mean_loss

COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
TOKENS = ("input_ids", "token_type_ids", "attention_mask")


class OneDevice(TorchDispatchMode):
    """Refuses what a GPU would: tensors of two devices in one operation, unless it copies."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = {each.device for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor) and each.dim()}
        if len(found) > 1 and func not in COPIES:
            raise RuntimeError(f"{func}: tensors on {found}")
        return func(*args, **(kwargs or {}))


def step(taken, labels, tails, elsewhere=None):
    """A model's forward and backward pass on a device that is not the CPU, where the class weights are.

    Args:
        taken: what of a batch it takes.
        elsewhere: what of it is left on the CPU.
    """
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    config = BertPairwiseCLSConfig(vocab_size=40, num_labels=labels, num_tails=tails, frozen_prefix_depth=2, **shape)
    with FakeTensorMode(), OneDevice(), torch.device("meta"):
        model = BertForPairwiseCLS(config)
        freeze(model, FreezeArguments(freeze_layers="0-1"))
        ids = torch.ones(2 if "missing" in taken else 4, 9).long()
        whole = {"input_ids": ids, "token_type_ids": ids, "attention_mask": torch.ones(4, 9).long()}
        whole |= {"prefix_states": torch.zeros(4, 9, 32), "missing": torch.arange(1, 3)}
        batch = {name: whole[name].to("cpu" if name == elsewhere else "meta") for name in taken}
        loss = mean_loss(0.1, torch.ones(labels, device="cpu"))(model.train()(**batch), torch.zeros(4).long())
        loss.backward()
    return loss.device


@pytest.mark.parametrize(("labels", "tails"), [(2, 1), (3, 2)])
@pytest.mark.parametrize(
    "taken", [("prefix_states", "attention_mask"), ("prefix_states",), TOKENS, ("prefix_states", "missing", *TOKENS)]
)
def test_model_batch_and_loss_meet_on_one_device(taken, labels, tails):
    assert step(taken, labels, tails) == torch.device("meta")


@pytest.mark.parametrize("elsewhere", ["prefix_states", "attention_mask", "input_ids"])
def test_what_is_left_on_the_cpu_is_seen(elsewhere):
    with pytest.raises(RuntimeError, match="tensors on"):
        step(("prefix_states", "missing", *TOKENS), 2, 1, elsewhere)
