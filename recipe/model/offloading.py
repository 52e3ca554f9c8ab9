"""The frozen prefix out of the way, for training from its outputs, and back in its place."""

from torch import nn

from recipe.model.modeling import BertForPairwiseCLS


def offload_prefix(model: BertForPairwiseCLS) -> None:
    """Take the frozen prefix out of the module tree and off the GPU.

    Until `restore_prefix` the model takes prefix_states only; its state dict, optimizer and DDP see the tail alone.
    """
    layers, depth = model.bert.encoder.layer, model.prefix_depth or 0
    model.offloaded = [model.bert.embeddings.cpu(), *(layer.cpu() for layer in layers[:depth])]
    model.bert.embeddings = nn.Identity()
    for index in range(depth):
        layers[index] = nn.Identity()


def restore_prefix(model: BertForPairwiseCLS) -> None:
    """Put it back where it was."""
    if model.offloaded:
        device = model.classifier.weight.device
        model.bert.embeddings, *layers = (module.to(device) for module in model.offloaded)
        for index, layer in enumerate(layers):
            model.bert.encoder.layer[index] = layer
        model.offloaded = []
