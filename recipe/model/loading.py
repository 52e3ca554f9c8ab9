"""The weights of a checkpoint, in whatever form it is published, checked; and a saved model with what is its own."""

import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ElectraConfig, ElectraModel, ErnieConfig, ErnieModel, PreTrainedTokenizerBase, set_seed

from recipe.arguments import DataArguments, RecipeArguments
from recipe.data.splits import Split
from recipe.errors import UserError
from recipe.model.base_model import ENCODER as CONFIGURED
from recipe.model.base_model import OURS, Base, open_base, readable_labels, reading
from recipe.model.modeling import BertForPairwiseCLS, Tail
from recipe.model.tokenizer import load_tokenizer
from recipe.model.weights import download_weights
from recipe.process.progress import quiet_libraries

# The parts of a published model that are its encoder; whatever else it holds are heads, which this recipe's replaces.
ENCODER = ("embeddings.", "encoder.")
UNUSED = ("embeddings.position_ids", "embeddings.token_type_ids", "embeddings.task_type_embeddings.")
TASK = "embeddings.task_type_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"
READING: Any = {"output_loading_info": True, "ignore_mismatched_sizes": True, "local_files_only": True}


def load_model(base: Base, keep_classifier: bool = False) -> BertForPairwiseCLS:
    """BertForPairwiseCLS with the checkpoint's encoder, and its classifier where that is to be kept.

    The type of the weights is always asked for: by itself `from_pretrained` trains a float16 checkpoint in float16.

    Raises:
        UserError: weights are missing, broken, of another shape, or not finite.
    """
    quiet_libraries()  # no report of a classifier that is new by design
    with reading(base.name, "its weights"):
        if base.on_hub:
            download_weights("--model_name_or_path", base.name)
        source: dict[str, Any] = {"pretrained_model_name_or_path": base.name}
        if base.kind in ("ernie", "electra"):
            source = {"pretrained_model_name_or_path": None, "state_dict": _as_bert(base)}
        model, report = BertForPairwiseCLS.from_pretrained(
            config=base.config,
            attn_implementation=base.args.attn_implementation,
            dtype=getattr(torch, base.args.dtype),
            **source,
            **READING,
        )
    _check_report(base, report, keep_classifier)
    if not keep_classifier and "classifier.weight" not in report["missing_keys"]:
        # a stock one reads a pooler that is not here, a run's may have other labels
        _draw(model.classifier, model.config.initializer_range)
    _check_values(base, model.named_parameters())
    return model


def _draw(linear: nn.Linear, std: float) -> None:
    """Initialise a linear layer as BERT does (BertPreTrainedModel._init_weights)."""
    nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)


def add_tails(model: BertForPairwiseCLS, num_tails: int) -> None:
    """Give a model, frozen as it is to be trained, so many tails: copies of its own, with classifiers drawn anew.

    Raises:
        UserError: there is no frozen prefix that they could stand on, or the model has several already.
    """
    if model.other_tails:
        raise UserError(
            f"--model_name_or_path {model.name_or_path}: a model of {model.config.num_tails} tails, which were trained "
            "to the end; what it was made from is expected, or a model of one tail"
        )
    if num_tails == 1:
        return
    if model.prefix_depth is None:
        raise UserError(
            f"--num_tails {num_tails}: the embeddings are trained, or some of them, so that the tails would share "
            "nothing; --freeze_layers 0-9 or the like is expected, and no --unfreeze_modules that matches them"
        )
    model.config.num_tails, model.config.frozen_prefix_depth = num_tails, model.prefix_depth
    own = model.bert.encoder.layer[model.prefix_depth :]
    for _ in range(1, num_tails):
        tail = Tail(model.config).to(model.dtype)
        tail.layer.load_state_dict(own.state_dict())
        for parameter, like in zip(tail.layer.parameters(), own.parameters(), strict=True):
            parameter.requires_grad_(like.requires_grad)
        _draw(tail.classifier, model.config.initializer_range)
        model.other_tails.append(tail)
    model.eval()  # the next train() has to look anew which modules are frozen


def load_fine_tuned(arguments: RecipeArguments) -> tuple[BertForPairwiseCLS, PreTrainedTokenizerBase]:
    """A model that this recipe saved, with its tokenizer.

    Raises:
        UserError: it cannot be loaded, is not this recipe's, or has fewer positions than --max_length.
    """
    quiet_libraries()
    set_seed(arguments.training.seed)
    base = open_base(arguments.model)
    if base.kind != OURS:
        raise UserError(
            f"{base.flag}: not a model that this recipe saved, whose classifier reads the last layer's [CLS]; a stock "
            "one's reads a pooler and would answer otherwise here: fine-tune it first, or score it with its own script"
        )
    model = load_model(base, keep_classifier=True)
    check_length(arguments.data, base.config.max_position_embeddings)
    return model, load_tokenizer(base, arguments.data.max_length)


def check_labels(model: BertForPairwiseCLS, split: Split, name: str | None) -> None:
    """Check that the data's labels are the model's.

    Raises:
        UserError: they are others.
    """
    ours, names = list(model.config.id2label.values()), readable_labels(split.label_names, split.unit)
    if ours != names:
        raise UserError(
            f"--model_name_or_path {name}: its labels are {', '.join(ours)}, those of {split.source} {', '.join(names)}"
        )


def _as_bert(base: Base) -> dict[str, Tensor]:
    """The encoder of an ERNIE or an ELECTRA under BERT's names; they differ from BERT in little else.

    ERNIE embeds the task, task 0 where none is given (ErnieEmbeddings.forward): the same for every token, so it is
    added to the token types' embeddings. ELECTRA has a layer between embeddings and encoder where the former are
    narrower (ElectraModel.__init__), and is BERT where they are not.
    """
    shape = {key: getattr(base.config, key) for key in CONFIGURED}
    config: ErnieConfig | ElectraConfig
    if base.kind == "ernie":
        stored = ErnieConfig.from_pretrained(base.name, local_files_only=True)
        tasks = {key: getattr(stored, key) for key in ("use_task_id", "task_type_vocab_size")}
        kind, config = partial(ErnieModel.from_pretrained, add_pooling_layer=False), ErnieConfig(**shape, **tasks)
    else:
        kind, config = ElectraModel.from_pretrained, ElectraConfig(**shape, embedding_size=base.config.hidden_size)
        narrow = ElectraConfig.from_pretrained(base.name, local_files_only=True).embedding_size
        if narrow != config.hidden_size:
            raise UserError(
                f"{base.flag}: an ELECTRA of embedding_size {narrow} and hidden_size {config.hidden_size}, which a "
                "layer between them joins; one where they are equal is expected (base or large)"
            )
    model, report = kind(base.name, config=config, dtype=torch.float32, **READING)
    _check_report(base, report, keep_classifier=False)
    state = model.state_dict()
    if TASK in state:
        state[TYPES] = state[TYPES] + state.pop(TASK)[0]
    return {f"bert.{name}": value for name, value in state.items()}


def _check_report(base: Base, report: dict[str, Any], keep_classifier: bool) -> None:
    """Raise where `from_pretrained` left a part of the encoder, or of a kept classifier, as it was initialised."""
    wanted = (*ENCODER, "classifier.", "other_tails.") if keep_classifier else ENCODER
    shapes = [key[0] for key in report["mismatched_keys"]]
    foreign = [key for key in report["unexpected_keys"] if not _bare(key).startswith(UNUSED)]
    problems = [("has no", report["missing_keys"]), ("holds an unexpected", foreign)]
    for problem, names in [*problems, ("has another shape of", shapes)]:
        keys = sorted(name for name in map(_bare, names) if name.startswith(wanted))
        if keys:
            more = f" (+{len(keys) - 1} more)" if len(keys) > 1 else ""
            raise UserError(f"{base.flag}: not this model's weights: it {problem} {keys[0]}{more}")


def _bare(name: str) -> str:
    """A weight's name without its model's prefix."""
    return re.sub(r"^(bert|ernie|electra)\.", "", name)


def _check_values(base: Base, weights: Iterable[tuple[str, Tensor]]) -> None:
    for name, value in weights:
        if not bool(value.isfinite().all()):
            raise UserError(f"{base.flag}: {name} holds NaN or infinity; weights that are numbers are expected")
        # Zeros are a download that stopped, other whole numbers are quantised; an embedding or a bias may be 0.
        if name.endswith(("dense.weight", "query.weight", "word_embeddings.weight")) and not bool(value.frac().any()):
            raise UserError(
                f"{base.flag}: {name} holds whole numbers alone, as an incomplete or quantised file does; weights in "
                "full precision are expected"
            )


def check_length(args: DataArguments, positions: int) -> None:
    """Check that the model has a position for every token that a pair may have.

    Raises:
        UserError: it has fewer.
    """
    if args.max_length > positions:
        raise UserError(
            f"--max_length {args.max_length}: the model has {positions} positions; at most that is expected"
        )
