"""The recipe's arguments, as dataclasses for HfArgumentParser."""

import os
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers import TrainingArguments

DEFAULT_CACHE_DIR = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "freeze-recipe")
DEFAULT_MODEL = "google-bert/bert-base-chinese"


def _option(default: Any, text: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": text, **metadata})


@dataclass
class ModelArguments:
    """Which model is fine-tuned."""

    model_name_or_path: str | None = _option(
        None,
        f"A BERT checkpoint: a folder, or a name on the Hub. Default: {DEFAULT_MODEL}; to evaluate, the newest run.",
    )
    dtype: str = _option(
        "float32",
        "Precision of the weights; --bf16 computes in 16 bits over float32 weights.",
        choices=["float32", "bfloat16"],
    )
    attn_implementation: str = _option("sdpa", "How attention is computed.", choices=["sdpa", "eager"])
    against: str | None = _option(
        None, "Another saved model: --do_eval compares the two by McNemar's test on the same pairs."
    )
    dropout: float | None = _option(
        None, "Overrides the checkpoint's hidden, attention and classifier dropout, 0 to 1."
    )


@dataclass
class DataArguments:
    """Which sentence pairs it is fine-tuned on."""

    dataset_name: str = _option("clue/clue", "A data set on the Hub with columns sentence1, sentence2 and label.")
    dataset_config_name: str | None = _option("afqmc", "The data set's configuration; an empty string for none.")
    data_dir: str | None = _option(
        None, "A folder with train, dev or validation, and test as .json, .jsonl, .csv, .tsv or .parquet, plain or .gz."
    )
    train_file: str | None = _option(
        None, "The training split in place of --data_dir's: a file, or a pattern ('train-*.jsonl') for its shards."
    )
    validation_file: str | None = _option(None, "The validation split, likewise.")
    test_file: str | None = _option(None, "The test split, likewise; - for JSON lines on standard input.")
    csv_quoting: str = _option(
        "auto",
        "Whether quotes in .csv and .tsv files enclose fields (minimal) or are text (none); auto: in a .csv file they "
        "enclose fields, in a .tsv file what its own fields show.",
        choices=["auto", "minimal", "none"],
    )
    label_names: list[str] | None = _option(
        None, "The labels as they stand in the data, in the order of their ids. Default: 0 1."
    )
    eval_split: str | None = _option(
        None,
        "Which split --do_eval scores (default: validation) or --do_predict answers (default: test).",
        choices=["train", "validation", "test"],
    )
    max_length: int = _option(128, "Tokens a pair may have; longer pairs are cut, the longer sentence first.")
    streaming: bool = _option(
        True, "Read the training split anew in each epoch; --no_streaming keeps it in Arrow on disk."
    )
    shuffle_buffer_size: int = _option(10_000, "Examples among which the next is drawn at random.")
    max_train_samples: int | None = _option(None, "Use only the first so many training examples.")
    max_eval_samples: int | None = _option(None, "Use only the first so many validation examples.")
    on_bad_row: str = _option(
        "error",
        "Whether a row that is no sentence pair stops the run, or is counted and left out.",
        choices=["error", "skip"],
    )


@dataclass
class FreezeArguments:
    """What stays as it was pre-trained."""

    freeze_layers: str | None = _option(
        None, "Layers to freeze: 0-9, 0-5,8, all or none. Default: all but the last two."
    )
    freeze_embeddings: bool | None = _option(None, "Freeze the embeddings. Default: when layer 0 is frozen.")
    freeze_modules: list[str] | None = _option(None, "Regular expressions over parameter names to freeze besides.")
    unfreeze_modules: list[str] | None = _option(
        None, r"Regular expressions over parameter names to train all the same (BitFit: '\.bias$')."
    )
    frozen_dropout: bool = _option(False, "Let what is frozen drop out in training, as stock PyTorch does.")


@dataclass
class CacheArguments:
    """How the frozen prefix's outputs are kept."""

    prefix_cache: str = _option(
        "auto",
        "Compute the frozen prefix once and train from its outputs; auto: where that pays.",
        choices=["auto", "on", "off"],
    )
    prefix_cache_dir: str = _option(DEFAULT_CACHE_DIR, "Where prefix caches are kept; later runs find them there.")
    prefix_cache_dtype: str = _option(
        "float16", "How the outputs are stored.", choices=["float16", "bfloat16", "float32"]
    )
    prefix_compute_dtype: str = _option(
        "auto",
        "How they are computed; auto: bfloat16 where the processor has it and the storage 16 bits, else float32.",
        choices=["auto", "float32", "bfloat16"],
    )
    prefix_cache_max_gb: float = _option(
        20.0, "The most disk space that one run's caches may take, in GB; of more, what fits is kept where that pays."
    )


@dataclass
class FreezeTrainingArguments(TrainingArguments):
    """The Trainer's arguments with this recipe's defaults."""

    output_dir: str | None = _option(
        "outputs/freeze", "Where the best model, its results and the checkpoints are written."
    )
    per_device_train_batch_size: int = _option(32, "Examples a device takes in one forward pass of training.")
    per_device_eval_batch_size: int = _option(64, "Examples a device takes in one forward pass of evaluation.")
    learning_rate: float = _option(1e-4, "AdamW's initial learning rate, which falls linearly to 0.")
    resume: str = _option(
        "auto",
        "auto goes on from the newest good checkpoint in --output_dir, never starts over (and removes what is there), "
        "a checkpoint-N folder goes on from that one.",
    )
    early_stopping_patience: int | None = _option(
        None, "Stop after so many evaluations without a better --metric_for_best_model."
    )
    compile_tail: str = _option(
        "off",
        "Train what is above the frozen prefix as compiled graphs; auto: where that measures faster on the GPU.",
        choices=["auto", "on", "off"],
    )
    model_card: bool = _option(True, "Write README.md, a model card with figures, beside the model.")
    eval_strategy: str = _option("epoch", "When to evaluate.", choices=["no", "steps", "epoch"])
    save_strategy: str = _option("epoch", "When to save a checkpoint.", choices=["no", "steps", "epoch", "best"])
    save_total_limit: int | None = _option(2, "How many checkpoints to keep, the best one included.")
    load_best_model_at_end: bool = _option(True, "End with the best checkpoint's weights, not the last one's.")
    metric_for_best_model: str | None = _option("accuracy", "What makes a checkpoint the best.")
    greater_is_better: bool | None = _option(True, "Whether more of --metric_for_best_model is better.")
    logging_steps: float = _option(50, "Steps between two logs of loss, gradient norm and learning rate.")
    logging_nan_inf_filter: bool = _option(False, "Log a non-finite loss as 0; off, since this recipe stops at one.")
    ddp_find_unused_parameters: bool | None = _option(
        False, "Let DDP look for parameters without gradient; there are none."
    )
    ddp_bucket_cap_mb: int | None = _option(
        None, "Gradients that ranks exchange at once, in MB. Default: all of them on a CPU, else torch's 25."
    )
    # What the recipe decides itself is no flag: its own order and batches, and labels under the key that the model has.
    remove_unused_columns: bool = field(default=False, init=False)
    train_sampling_strategy: str = field(default="random", init=False)
    resume_from_checkpoint: str | None = field(default=None, init=False)
    ignore_data_skip: bool = field(default=False, init=False)
    save_only_model: bool = field(default=False, init=False)
    restore_callback_states_from_checkpoint: bool = field(default=True, init=False)
    dataloader_drop_last: bool = field(default=False, init=False)
    label_names: list[str] | None = field(default=None, init=False)

    # --do_eval or --do_predict without --do_train; asked here, since the Trainer sets do_eval whenever an epoch ends in
    # an evaluation.
    only_evaluates: bool = field(default=False, init=False)
    only_predicts: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.only_predicts = self.do_predict and not self.do_train
        self.only_evaluates = self.do_eval and not self.do_train
        if self.only_evaluates or self.only_predicts:  # no epochs, so nothing to evaluate, save or compare between them
            self.eval_strategy = self.save_strategy = "no"
            self.load_best_model_at_end = False
        if self.eval_strategy == "no":
            self.load_best_model_at_end = False
        if not torch.accelerator.is_available():  # else --bf16 is refused there, and ranks would look for NCCL
            self.use_cpu = True
        # without a GPU pinning does nothing but warn, once for each data loader, and what exchanges gradients while
        # backward goes on takes its cores away: one bucket, exchanged behind it
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False
            self.ddp_bucket_cap_mb = self.ddp_bucket_cap_mb or 10_000
        super().__post_init__()
        # several GPUs without a launcher would become nn.DataParallel, which multiplies the loss by their number and
        # hands a cached batch's indices to the wrong rows
        self._n_gpu = min(self.n_gpu, 1)


class RecipeArguments(NamedTuple):
    """The parsed dataclasses."""

    model: ModelArguments
    data: DataArguments
    freeze: FreezeArguments
    cache: CacheArguments
    training: FreezeTrainingArguments
