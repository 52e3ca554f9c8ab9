"""A model as stock BertForSequenceClassification, which other libraries load without this recipe's code."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerBase

from recipe.model.modeling import BertForPairwiseCLS

# A stock classifier reads tanh(P [CLS] + p). With P this small times the identity, tanh(x) is x up to x**3 / 3: a
# relative 8e-6 where a hidden value is 20, and the classifier's weights, divided by it, still fit into float16. A power
# of two, so that neither multiplication rounds.
SMALL = 2.0**-12
IDENTITY = "torch.nn.modules.linear.Identity"


def as_stock(model: BertForPairwiseCLS) -> BertForSequenceClassification:
    """The same logits, up to rounding, from a stock model in eval mode."""
    known = BertConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
    config = BertConfig(**{key: value for key, value in model.config.to_dict().items() if key in known})
    config.problem_type = "single_label_classification"
    if config.num_labels == 1:  # sentence-transformers would put a sigmoid over a single logit
        config.problem_type, config.sentence_transformers = "regression", {"activation_fn": IDENTITY}
    stock = BertForSequenceClassification(config).eval()
    weights = {name: value.float() for name, value in model.state_dict().items()}
    weights["bert.pooler.dense.weight"] = torch.eye(config.hidden_size) * SMALL
    weights["bert.pooler.dense.bias"] = torch.zeros(config.hidden_size)
    weights["classifier.weight"] = weights["classifier.weight"] / SMALL
    stock.load_state_dict(weights)
    return stock


def write_stock(stock: BertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model and tokenizer as transformers does."""
    stock.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
