"""The last layer, for [CLS] alone: the one place that leans on the inside of transformers' BertLayer.

It is copied beside every saved model, with modeling.py.
"""

import torch
from torch import Tensor
from transformers.models.bert.modeling_bert import BertLayer


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
