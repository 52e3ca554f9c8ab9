"""BertForPairwiseCLS: embeddings -> layers -> [CLS] -> dropout -> linear.

This file is copied beside every saved model (`trust_remote_code=True` runs it there), so it imports torch and
transformers only. It is also the one place that leans on the inside of transformers' BertLayer.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertPreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.bert.modeling_bert import BertLayer


class BertPairwiseCLSConfig(BertConfig):
    """BertConfig under a model type of its own.

    As `bert`, a saved model would load into the stock class with a random pooler (its answers wrong, one warning);
    under this name whoever does not trust the code is refused.
    """

    model_type = "bert_pairwise_cls"


class BertCLSLayer(BertLayer):
    """A BertLayer that computes its output for [CLS] alone: (batch, tokens, hidden) -> (batch, 1, hidden).

    Its one query makes the others' keys and values unnecessary. With a head's query q, and weights w_t of states h_t:
        score_t = q.(W_k h_t + b_k) = (W_k' q).h_t + q.b_k
        context = sum_t w_t (W_v h_t + b_v) = W_v (sum_t w_t h_t) + (sum_t w_t) b_v
    So W_k and W_v are applied once and not once a token: the same parameters, and the same result up to rounding.
    """

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: object) -> Tensor:
        """The layer's output at [CLS]; `attention_mask` as transformers makes it for the whole sequence."""
        cls = hidden_states[:, :1]
        return self.feed_forward_chunk(self.attention.output(self._attend(cls, hidden_states, attention_mask), cls))

    def _attend(self, cls: Tensor, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        attention = self.attention.self
        heads, size = attention.num_attention_heads, attention.attention_head_size
        query = attention.query(cls).view(-1, heads, size)
        key_weight = attention.key.weight.view(heads, size, -1)
        value_weight = attention.value.weight.view(heads, size, -1)
        # The key's bias adds the same to every score and softmax drops it; DDP wants it in the graph all the same.
        offset = (query * attention.key.bias.view(heads, size)).sum(-1, keepdim=True)
        query = torch.einsum("bhs,hsd->bhd", query, key_weight.to(query.dtype))
        scores = (torch.matmul(query, hidden_states.to(query.dtype).transpose(1, 2)) + offset) * attention.scaling
        if attention_mask is not None:  # (batch, 1, queries, tokens): added to the scores, or True where to attend
            rows, lowest = attention_mask[:, :, 0], torch.finfo(scores.dtype).min
            scores = scores.masked_fill(~rows, lowest) if rows.dtype == torch.bool else scores + rows
        weights = attention.dropout(scores.softmax(dim=-1))  # which no longer sum to 1 in training
        mixed = torch.matmul(weights.to(query.dtype), hidden_states.to(query.dtype))
        context = torch.einsum("bhd,hsd->bhs", mixed, value_weight.to(mixed.dtype))
        bias = attention.value.bias.view(heads, size).to(context.dtype)
        return (context + weights.sum(-1, keepdim=True).to(context.dtype) * bias).reshape(cls.shape)


class BertForPairwiseCLS(BertPreTrainedModel):
    """BERT over a sentence pair, classified from the last layer's [CLS].

    Attributes:
        prefix_depth: how many layers the frozen prefix has; None where the embeddings are trained.
        frozen_dropout: whether what is frozen still drops out in training, as stock PyTorch does.
        compiled_tail: what training calls in place of `run_tail`; None for itself.
    """

    config_class = BertPairwiseCLSConfig
    accepts_loss_kwargs = False  # a mean, which the Trainer must divide by the accumulation steps (transformers#47688)

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.bert.encoder.layer[-1] = BertCLSLayer(config, layer_idx=config.num_hidden_layers - 1)
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.prefix_depth: int | None = None
        self.frozen_dropout = self._in_training = False
        self.compiled_tail: Callable[[Tensor, Tensor | None], Tensor] | None = None
        self._offloaded: list[nn.Module] = []
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
        return None if self._offloaded else super().get_input_embeddings()

    def enable_input_require_grads(self) -> None:
        """Do nothing: activation checkpointing asks for this, and backward would cross every frozen layer."""

    def run_prefix(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, token_type_ids: Tensor | None
    ) -> Tensor:
        """The frozen prefix's output, without a graph: (batch, tokens, hidden); (batch, 1, hidden) at full depth."""
        with torch.no_grad():
            hidden_states = self.bert.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
            return self._run_layers(hidden_states, attention_mask, 0, self.prefix_depth or 0)

    def _complete(
        self, states: Tensor, mask: Tensor, missing: Tensor, input_ids: Tensor, token_type_ids: Tensor | None
    ) -> Tensor:
        found = self.run_prefix(input_ids, mask[missing, : input_ids.shape[1]], token_type_ids)
        states = states.clone()
        states[missing, : found.shape[1]] = found.to(states.dtype)
        return states

    def offload_prefix(self) -> None:
        """Take the frozen prefix out of the module tree and off the GPU, for training from its outputs.

        Until `restore_prefix` the model takes prefix_states only; its state dict, optimizer and DDP see the tail alone.
        """
        layers = self.bert.encoder.layer
        self._offloaded = [self.bert.embeddings.cpu(), *(layer.cpu() for layer in layers[: self.prefix_depth])]
        self.bert.embeddings = nn.Identity()
        for index in range(len(self._offloaded) - 1):
            layers[index] = nn.Identity()

    def restore_prefix(self) -> None:
        """Put the prefix back where it was."""
        if self._offloaded:
            self.bert.embeddings, *layers = (module.to(self.classifier.weight.device) for module in self._offloaded)
            for index, layer in enumerate(layers):
                self.bert.encoder.layer[index] = layer
            self._offloaded = []

    def run_tail(self, hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Logits (batch, num_labels) from the frozen prefix's output (batch, tokens, hidden)."""
        output = self._run_layers(hidden_states, attention_mask, self.prefix_depth or 0, self.config.num_hidden_layers)
        cls = self.dropout(output[:, 0])
        if self.config.num_labels > 1:
            return self.classifier(cls)
        with torch.autocast(cls.device.type, enabled=False):  # bfloat16 would round a score of 4 to 64ths
            return self.classifier(cls.to(self.classifier.weight.dtype))

    def _run_layers(self, hidden_states: Tensor, attention_mask: Tensor | None, start: int, stop: int) -> Tensor:
        if start == stop:
            return hidden_states
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask)
        for layer in self.bert.encoder.layer[start:stop]:
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
    ) -> SequenceClassifierOutput:
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
        logits = ((self.training and self.compiled_tail) or self.run_tail)(hidden_states, attention_mask)
        loss = None if labels is None else summed_loss(logits, labels) / (labels != -100).sum().clamp(min=1)
        return SequenceClassifierOutput(loss=loss, logits=logits)


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
