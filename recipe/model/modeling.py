"""BertForPairwiseCLS: embeddings -> layers -> [CLS] -> dropout -> linear.

This file and the one that it imports are copied beside every saved model (`trust_remote_code=True` runs them there), so
they import torch and transformers only, and each other by a relative name.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertPreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.bert.modeling_bert import BertLayer

from .cls_layer import BertCLSLayer


class BertPairwiseCLSConfig(BertConfig):
    """BertConfig under a model type of its own.

    As `bert`, a saved model would load into the stock class with a random pooler (its answers wrong, one warning);
    under this name whoever does not trust the code is refused.
    """

    model_type = "bert_pairwise_cls"


@dataclass
class PairwiseCLSOutput(SequenceClassifierOutput):
    """A SequenceClassifierOutput; in training of several tails with what each says: (tails, batch, num_labels)."""

    tail_logits: Tensor | None = None


class Tail(nn.Module):
    """A further tail over the frozen prefix that the model's own stands on: the layers above it, and a classifier."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        last = config.num_hidden_layers - 1
        kinds = [(index, BertCLSLayer if index == last else BertLayer) for index in range(last + 1)]
        above = kinds[config.frozen_prefix_depth :]
        self.layer = nn.ModuleList(kind(config, layer_idx=index) for index, kind in above)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)


class BertForPairwiseCLS(BertPreTrainedModel):
    """BERT over a sentence pair, classified from the last layer's [CLS].

    Where its configuration has `num_tails`, the layers above `frozen_prefix_depth` and the classifier are there so many
    times; each is trained for itself, and they answer together, by the mean of their probabilities or scores.

    Attributes:
        prefix_depth: how many layers the frozen prefix has; None where the embeddings are trained.
        frozen_dropout: whether what is frozen still drops out in training, as stock PyTorch does.
        compiled_tail: what training calls in place of `run_tail`; None for itself.
        offloaded: the frozen prefix while it is out of the module tree.
    """

    config_class = BertPairwiseCLSConfig
    accepts_loss_kwargs = False  # a mean, which the Trainer must divide by the accumulation steps (transformers#47688)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.bert.encoder.layer[-1] = BertCLSLayer(config, layer_idx=config.num_hidden_layers - 1)
        self.other_tails = nn.ModuleList(Tail(config) for _ in range(1, getattr(config, "num_tails", 1)))
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.prefix_depth: int | None = None
        self.frozen_dropout = self._in_training = False
        self.compiled_tail: Callable[[Tensor, Tensor | None], Tensor] | None = None
        self.offloaded: list[nn.Module] = []
        self.post_init()

    def train(self, mode: bool = True) -> "BertForPairwiseCLS":
        """Switch to training, but leave every module of which all parameters are frozen in eval mode.

        Trainer.training_step calls this before each step, which would turn frozen layers' dropout on again, and walk
        all modules for a sixth of what a step costs on the host; so what is in training already is left as it is.
        """
        if not (mode and self._in_training):
            super().train(mode)
            if mode and not self.frozen_dropout:
                _freeze_modes(self)
            self._in_training = mode
        return self

    def get_input_embeddings(self) -> nn.Module | None:
        """None while they are offloaded; FSDP asks for them, to shard them apart."""
        return None if self.offloaded else super().get_input_embeddings()

    def enable_input_require_grads(self) -> None:
        """Do nothing: activation checkpointing asks for this, and backward would cross every frozen layer."""

    def run_prefix(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> Tensor:
        """The frozen prefix's output, without a graph: (batch, tokens, hidden); (batch, 1, hidden) at full depth."""
        with torch.no_grad():
            hidden_states = self.bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
            return self._run_layers(hidden_states, attention_mask, self.bert.encoder.layer[: self.prefix_depth or 0])

    def _complete(
        self, states: Tensor, mask: Tensor, missing: Tensor, input_ids: Tensor, token_type_ids: Tensor | None
    ) -> Tensor:
        found = self.run_prefix(input_ids, mask[missing, : input_ids.shape[1]], token_type_ids)
        states = states.clone()
        states[missing, : found.shape[1]] = found.to(states.dtype)
        return states

    def run_tail(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Each tail's logits, (tails, batch, num_labels), from the frozen prefix's output (batch, tokens, hidden)."""
        start, layers = self.prefix_depth or 0, self.bert.encoder.layer
        shared = self.config.frozen_prefix_depth if self.other_tails else start
        hidden_states = self._run_layers(hidden_states, attention_mask, layers[start:shared])
        tails: list[Any] = [(layers[shared:], self.classifier)]
        tails += [(tail.layer, tail.classifier) for tail in self.other_tails]
        outputs = [(self._run_layers(hidden_states, attention_mask, above), head) for above, head in tails]
        return torch.stack([self._classify(output, head) for output, head in outputs])

    def _classify(self, output: Tensor, classifier: nn.Module) -> Tensor:
        cls = self.dropout(output[:, 0])
        if self.config.num_labels > 1:
            return classifier(cls)
        with torch.autocast(cls.device.type, enabled=False):  # bfloat16 would round a score of 4 to 64ths
            return classifier(cls.to(self.classifier.weight.dtype))

    def _run_layers(self, hidden_states: Tensor, attention_mask: Tensor | None, layers: nn.ModuleList) -> Tensor:
        if not layers:
            return hidden_states
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask)
        for layer in layers:
            hidden_states = layer(hidden_states, mask)
        return hidden_states

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        prefix_states: Tensor | None = None,
        missing: Tensor | None = None,
    ) -> PairwiseCLSOutput:
        """Logits (batch, num_labels) and, given labels (batch,), their mean loss (see `summed_loss`).

        Takes ids, types and mask, each (batch, tokens), or prefix_states (batch, tokens, hidden) in place of the ids;
        with `missing` (some,) both, the ids (some, fewer tokens) of those places whose states are missing among them.
        """
        if prefix_states is not None:
            hidden_states = prefix_states.to(self.classifier.weight.dtype)
            if missing is not None and input_ids is not None and attention_mask is not None:
                hidden_states = self._complete(hidden_states, attention_mask, missing, input_ids, token_type_ids)
        elif self.prefix_depth is not None:
            hidden_states = self.run_prefix(input_ids, attention_mask, token_type_ids)
        else:
            hidden_states = self.bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        tails = ((self.training and self.compiled_tail) or self.run_tail)(hidden_states, attention_mask)
        logits, apart = _together(tails), self.training and len(tails) > 1
        loss = None
        if labels is not None:
            losses = [summed_loss(each, labels) for each in (tails if apart else [logits])]
            loss = torch.stack(losses).mean() / (labels != -100).sum().clamp(min=1)
        return PairwiseCLSOutput(loss=loss, logits=logits, tail_logits=tails if apart else None)


def _together(tails: Tensor) -> Tensor:
    """The logits (batch, num_labels) of the tails' mean probabilities, or scores; of a single tail its own."""
    if len(tails) == 1:
        return tails[0]
    if tails.shape[-1] == 1:
        return tails.mean(0)
    return tails.float().log_softmax(-1).logsumexp(0) - math.log(len(tails))


def summed_loss(logits: Tensor, labels: Tensor, weight: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, or the squared errors of scores (batch, 1), summed; a label of -100 adds nothing."""
    if logits.shape[1] > 1:
        return nn.functional.cross_entropy(logits, labels, weight, reduction="sum", label_smoothing=smoothing)
    return torch.where(labels == -100, 0.0, logits[:, 0].float() - labels).square().sum()


def _freeze_modes(module: nn.Module) -> None:
    for part in module.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()


BertPairwiseCLSConfig.register_for_auto_class()
BertForPairwiseCLS.register_for_auto_class("AutoModelForSequenceClassification")
