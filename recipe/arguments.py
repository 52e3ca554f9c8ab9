"""The recipe's arguments, as dataclasses for HfArgumentParser."""

import os
from dataclasses import dataclass
from typing import NamedTuple

from recipe.training_arguments import FreezeTrainingArguments, option

DEFAULT_CACHE_DIR = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "freeze-recipe")
DEFAULT_MODEL = "google-bert/bert-base-chinese"
MOST_TAILS = 64  # each takes memory before it is known whether there are weights for it


@dataclass(kw_only=True)
class ModelArguments:
    """Which model is fine-tuned."""

    model_name_or_path: str | None = option(
        None,
        f"A BERT checkpoint: a folder, or a name on the Hub. Default: {DEFAULT_MODEL}; to evaluate, the newest run.",
    )
    dtype: str = option(
        "float32",
        "Precision of the weights; --bf16 computes in 16 bits over float32 weights.",
        choices=["float32", "bfloat16"],
    )
    attn_implementation: str = option("sdpa", "How attention is computed.", choices=["sdpa", "eager"])
    against: str | None = option(
        None, "Another saved model: --do_eval compares the two by McNemar's test on the same pairs."
    )
    num_tails: int = option(
        1,
        "Tails (what is above the frozen prefix, and a classifier) trained side by side over it, which answer by "
        "the mean of their probabilities.",
    )
    dropout: float | None = option(None, "Overrides the checkpoint's hidden, attention and classifier dropout, 0 to 1.")

    @property
    def name(self) -> str:
        """The folder or the name on the Hub, the default where none was given."""
        return self.model_name_or_path or DEFAULT_MODEL


@dataclass(kw_only=True)
class DataArguments:
    """Which sentence pairs it is fine-tuned on."""

    dataset_name: str = option("clue/clue", "A data set on the Hub.")
    dataset_config_name: str | None = option("afqmc", "The data set's configuration; an empty string for none.")
    data_dir: str | None = option(
        None, "A folder with train, dev or validation, and test as .json, .jsonl, .csv, .tsv or .parquet, plain or .gz."
    )
    train_file: str | None = option(
        None, "The training split in place of --data_dir's: a file, or a pattern ('train-*.jsonl') for its shards."
    )
    validation_file: str | None = option(None, "The validation split, likewise.")
    test_file: str | None = option(None, "The test split, likewise; '-': JSON lines on standard input.")
    text_column_names: str = option(
        "sentence1,sentence2", "The two columns of a pair, with a comma between; or the one column of single sentences."
    )
    label_column_name: str = option("label", "The column of the labels.")
    id_column_name: str | None = option(None, "The column that names a row in predictions. Default: id or idx.")
    data_format: str | None = option(
        None,
        "What the files are whose names do not end in .json, .jsonl or .parquet. Default: what .csv and .tsv say.",
        choices=["csv", "tsv", "json", "parquet"],
    )
    delimiter: str | None = option(
        None,
        "What stands between a table's fields: 'tab', a character or a few. Default: csv: a comma, tsv: a tab.",
    )
    column_names: str | None = option(
        None, "The columns of tables without a header, in their order: 'sentence1,sentence2,label'."
    )
    csv_quoting: str = option(
        "auto",
        "Whether a table's quotes enclose fields ('minimal') or are text ('none'); 'auto': they enclose fields between "
        "commas; between tabs they do what the file's own fields show.",
        choices=["auto", "minimal", "none"],
    )
    task_type: str = option(
        "classification",
        "What a label is: one of --label_names, or, for a regression, a number, such as how similar two sentences are.",
        choices=["classification", "regression"],
    )
    label_names: list[str] | None = option(
        None, "The labels as they stand in the data, in the order of their ids. Default: 0 1."
    )
    eval_split: str | None = option(
        None,
        "Which split --do_eval scores (default: validation) or --do_predict answers (default: test).",
        choices=["train", "validation", "test"],
    )
    max_length: int = option(128, "Tokens a pair may have; longer pairs are cut, the longer sentence first.")
    streaming: bool = option(
        True, "Read the training split anew in each epoch; --no_streaming keeps it in Arrow on disk."
    )
    shuffle_buffer_size: int = option(10_000, "Examples among which the next is drawn at random.")
    max_train_samples: int | None = option(None, "Use only the first so many training examples.")
    max_eval_samples: int | None = option(None, "Use only the first so many validation examples.")
    on_bad_row: str = option(
        "error",
        "Whether a row that is no sentence pair stops the run, or is counted and left out.",
        choices=["error", "skip"],
    )


@dataclass(kw_only=True)
class FreezeArguments:
    """What stays as it was pre-trained."""

    freeze_layers: str | None = option(
        None, "Layers to freeze: '0-9', '0-5,8', 'all' or 'none'. Default: all but the last two."
    )
    freeze_embeddings: bool | None = option(None, "Freeze the embeddings. Default: when layer 0 is frozen.")
    freeze_modules: list[str] | None = option(None, "Regular expressions over parameter names to freeze besides.")
    unfreeze_modules: list[str] | None = option(
        None, r"Regular expressions over parameter names to train all the same (BitFit: '\.bias$')."
    )
    frozen_dropout: bool = option(False, "Let what is frozen drop out in training, as stock PyTorch does.")


@dataclass(kw_only=True)
class CacheArguments:
    """How the frozen prefix's outputs are kept."""

    prefix_cache: str = option(
        "auto",
        "Compute the frozen prefix once and train from its outputs; 'auto': where that pays.",
        choices=["auto", "on", "off"],
    )
    prefix_cache_dir: str = option(DEFAULT_CACHE_DIR, "Where prefix caches are kept; later runs find them there.")
    prefix_cache_dtype: str = option(
        "float16", "How the outputs are stored.", choices=["float16", "bfloat16", "float32"]
    )
    prefix_compute_dtype: str = option(
        "auto",
        "How they are computed; 'auto': bfloat16 where the processor has it and the storage 16 bits, else float32.",
        choices=["auto", "float32", "bfloat16"],
    )
    prefix_cache_max_gb: float = option(
        20.0,
        "The most disk space that all caches in --prefix_cache_dir may take, in GB: of a run's own what fits is kept "
        "where that pays, and others make room for it, those first that were not used for longest.",
    )


class RecipeArguments(NamedTuple):
    """The parsed dataclasses."""

    model: ModelArguments
    data: DataArguments
    freeze: FreezeArguments
    cache: CacheArguments
    training: FreezeTrainingArguments
