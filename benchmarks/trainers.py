"""The trainers that the benchmark compares, each built as its users would build it."""

from typing import Any

import datasets
import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.rows import BATCH, Row

FROZEN = [f"bert.encoder.layer.{layer}." for layer in range(10)] + ["bert.embeddings."]


def _settings(row: Row, folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": BATCH,
        "max_steps": 100_000,
        "save_strategy": "no",
        "logging_steps": 50,
        "bf16": row.bf16,
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": True,
        "report_to": "none",
    }


def _freeze(model: torch.nn.Module, row: Row) -> None:
    if row.method.trains == "10-11":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(tuple(FROZEN)))


def _dataset(rows: list[dict[str, Any]]) -> datasets.Dataset:
    return datasets.Dataset.from_list(rows).remove_columns("texts")


def stock(row: Row, work: dict[str, Any], model_dir: str, folder: str, callback: TrainerCallback) -> Trainer:
    """The stock Trainer; the batches come in the given order, which is the one that its own sampler would make."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    model = AutoModelForSequenceClassification.from_pretrained(model_dir)
    _freeze(model, row)
    if row.method.trains == "lora":
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"]))
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    padding: dict[str, Any] = {"padding": "max_length", "max_length": 128} if row.method.padded else {}
    return Trainer(
        model=model,
        args=TrainingArguments(**_settings(row, folder), train_sampling_strategy="sequential"),
        train_dataset=_dataset(work["train"]),
        eval_dataset=_dataset(work["eval"]),
        data_collator=DataCollatorWithPadding(tokenizer, **padding),
        callbacks=[callback],
    )


def cross_encoder(row: Row, work: dict[str, Any], model_dir: str, folder: str, callback: TrainerCallback) -> Trainer:
    """sentence-transformers' CrossEncoder with frozen layers; its trainer tokenises the texts in each step."""
    from sentence_transformers.base.sampler import DefaultBatchSampler
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = CrossEncoder(model_dir, num_labels=2, max_length=128, device=device, local_files_only=True)
    _freeze(model[0].auto_model, row)

    def in_order(dataset: datasets.Dataset, **options: Any) -> DefaultBatchSampler:
        return DefaultBatchSampler(SequentialSampler(dataset), **options)

    def texts(rows: list[dict[str, Any]]) -> datasets.Dataset:
        return datasets.Dataset.from_list(
            [{"sentence1": a["texts"][0], "sentence2": a["texts"][1], "label": a["labels"]} for a in rows]
        )

    return CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(**_settings(row, folder), batch_sampler=in_order),
        train_dataset=texts(work["train"]),
        eval_dataset=texts(work["eval"]),
        callbacks=[callback],
    )


def recipe(row: Row, work: dict[str, Any], model_dir: str, folder: str, callback: TrainerCallback) -> Trainer:
    """This recipe, without its cache or with it: the first that is started makes it, the next one finds it."""
    from recipe.command_line.parsing import parse
    from recipe.data.splits import Split
    from recipe.model.base_model import open_base
    from recipe.model.freezing import freeze
    from recipe.model.loading import load_model
    from recipe.model.tokenizer import load_tokenizer
    from recipe.training.feeding import Prepared, build

    cache = "off" if "no cache" in row.method.name else "on"
    arguments = parse(
        [
            *(f"--model_name_or_path={model_dir}", "--freeze_layers=0-9", f"--output_dir={folder}"),
            *("--max_steps=100000", "--num_train_epochs=1000", "--save_strategy=no", "--eval_strategy=no"),
            *("--load_best_model_at_end=false", f"--prefix_cache={cache}", f"--prefix_cache_dir={folder}/cache"),
            *(f"--bf16={row.bf16}", f"--per_device_eval_batch_size={BATCH}"),
        ]
    )
    base = open_base(arguments.model)
    model = load_model(base)
    freeze(model, arguments.freeze)
    tokenizer = load_tokenizer(base)
    splits = []
    for name in ("train", "eval"):
        rows = _dataset(work[name]).add_column("cut", [False] * len(work[name]))
        splits.append(Split(name, name, None, len(rows), ["0", "1"], "", examples=rows))
    trainer = build(arguments, Prepared(model, tokenizer, splits, identity={}))
    trainer.add_callback(callback)
    return trainer


BUILD = {"stock": stock, "cross-encoder": cross_encoder, "recipe": recipe}
