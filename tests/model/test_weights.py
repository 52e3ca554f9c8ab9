import torch

from recipe.arguments import FreezeArguments
from recipe.model.freezing import freeze
from recipe.model.weights import fingerprint


def test_fingerprint_sees_one_bit(model):
    freeze(model, FreezeArguments(freeze_layers="0-1"))
    before = fingerprint(model, trained=False)
    weight = model.bert.encoder.layer[1].output.dense.weight
    with torch.no_grad():
        model.classifier.weight.add_(1)
        assert fingerprint(model, trained=False) == before
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    assert fingerprint(model, trained=False) != before
