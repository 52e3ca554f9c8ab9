"""Configuration, tokenizer and weights of a BERT checkpoint, from a folder or the Hub, each checked."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from recipe.arguments import DEFAULT_MODEL, ModelArguments
from recipe.errors import UserError
from recipe.hub import require_hub
from recipe.modeling import BertForPairwiseCLS, BertPairwiseCLSConfig

# What a checkpoint may hold besides the encoder: a pooler, or the heads of its pre-training.
UNUSED = ("bert.pooler.", "pooler.", "cls.", "bert.embeddings.position_ids", "embeddings.position_ids")


def load_config(args: ModelArguments) -> tuple[BertPairwiseCLSConfig, dict[str, Any]]:
    """The checkpoint's configuration under this recipe's model type, and the arguments to load its files with.

    Raises:
        UserError: no such folder or repository, the Hub is out of reach, or the model is no BERT.
    """
    name = args.model_name_or_path or DEFAULT_MODEL
    options: dict[str, Any] = {"local_files_only": _is_local(name)}
    if not options["local_files_only"]:
        options["local_files_only"] = not require_hub("--model_name_or_path", name, "model", "config.json")
    with _reading(name):
        values, _ = BertConfig.get_config_dict(name, **options)
    if values.get("model_type") not in ("bert", BertPairwiseCLSConfig.model_type):
        kind = values.get("model_type")
        raise UserError(f"--model_name_or_path {name}: a {kind} model; a BERT checkpoint (model_type bert) is expected")
    for key in ("architectures", "auto_map", "model_type", "transformers_version", "dtype"):
        values.pop(key, None)
    with _reading(name):
        config = BertPairwiseCLSConfig.from_dict(values)
    if args.dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = config.classifier_dropout = args.dropout
    return config, options


def _is_local(name: str) -> bool:
    if Path(name).exists():
        if not (Path(name) / "config.json").is_file():
            raise UserError(
                f"--model_name_or_path {name}: no config.json in it; a BERT checkpoint's folder is expected"
            )
        return True
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"--model_name_or_path {name}: no such folder; a folder or OWNER/NAME on the Hub is expected")
    return False


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # torn files fail in as many ways as there are formats
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"--model_name_or_path {name}: cannot be loaded: {type(error).__name__}: {reason}") from error


def readable_labels(names: list[str]) -> list[str]:
    """What a saved model calls the data's labels: AFQMC's 0 and 1 by what they mean, others as they are."""
    return ["different", "same"] if names == ["0", "1"] else names


def name_labels(config: BertPairwiseCLSConfig, names: list[str]) -> None:
    """Give the model the labels of its data."""
    config.id2label = dict(enumerate(readable_labels(names)))
    config.label2id = {name: index for index, name in config.id2label.items()}


def load_tokenizer(
    args: ModelArguments, config: BertPairwiseCLSConfig, options: dict[str, Any]
) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer; no code that lies beside it is run.

    Raises:
        UserError: it has none, or one without [CLS] and [SEP].
    """
    name = args.model_name_or_path or DEFAULT_MODEL
    with _reading(name):
        tokenizer = AutoTokenizer.from_pretrained(name, config=config, trust_remote_code=False, **options)
    if tokenizer.cls_token_id is None or tokenizer.sep_token_id is None or tokenizer.pad_token_id is None:
        raise UserError(f"--model_name_or_path {name}: its tokenizer lacks [CLS], [SEP] or [PAD]")
    return tokenizer


def load_model(
    args: ModelArguments, config: BertPairwiseCLSConfig, options: dict[str, Any], fine_tuned: bool = False
) -> BertForPairwiseCLS:
    """BertForPairwiseCLS with the checkpoint's weights; all but the classifier's, unless `fine_tuned`, must be there.

    The type of the weights is always asked for: by itself `from_pretrained` trains a float16 checkpoint in float16.

    Raises:
        UserError: weights are missing, broken, or of another shape.
    """
    name = args.model_name_or_path or DEFAULT_MODEL
    with _reading(name), _quiet():
        model, report = BertForPairwiseCLS.from_pretrained(
            name,
            config=config,
            dtype=getattr(torch, args.dtype),
            attn_implementation=args.attn_implementation,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    if fine_tuned and any(key.startswith("classifier.") for key in report["missing_keys"]):
        raise UserError(f"--model_name_or_path {name}: has no classifier; a model that this recipe saved is expected")
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("classifier."))
    unknown = sorted(key for key in report["unexpected_keys"] if not key.startswith((*UNUSED, "classifier.")))
    shapes = sorted(str(key[0]) for key in report["mismatched_keys"] if not str(key[0]).startswith("classifier."))
    for problem, keys in [("has no", missing), ("holds an unexpected", unknown), ("has another shape of", shapes)]:
        if keys:
            more = f" (+{len(keys) - 1} more)" if len(keys) > 1 else ""
            raise UserError(f"--model_name_or_path {name}: not this BERT's weights: it {problem} {keys[0]}{more}")
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No load report of a classifier that is new by design, and no bar for a load of a second."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
