"""Flags of other versions of the Trainer and of other scripts, by what does their work here."""

import difflib
from argparse import Action
from collections.abc import Mapping

from recipe.training_fields import HIDDEN, REFUSED

_BATCH = "--per_device_train_batch_size"
_EVAL_BATCH = "--per_device_eval_batch_size"
_STEPS = "--max_steps"
_FILES = "HF_HOME in the environment says where the Hub's files are kept; --prefix_cache_dir where prefix caches are"

INSTEAD = {
    "no_cuda": "--use_cpu",
    "device": "--use_cpu, or CUDA_VISIBLE_DEVICES in the environment",
    "use_mps_device": "nothing: an accelerator that is there is used, unless --use_cpu says otherwise",
    "overwrite_output_dir": "--resume never, which starts over and removes the checkpoints in --output_dir",
    "train_batch_size": _BATCH,
    "eval_batch_size": _EVAL_BATCH,
    "per_gpu_train_batch_size": _BATCH,
    "per_gpu_eval_batch_size": _EVAL_BATCH,
    "batch_size": _BATCH,
    "group_by_length": "nothing: pairs of like length always go together",
    "logging_dir": "TENSORBOARD_LOGGING_DIR in the environment",
    "evaluation_strategy": "--eval_strategy",
    "evaluate_during_training": "--eval_strategy",
    "warmup_ratio": "--warmup_steps, which takes a share of the steps too, such as 0.1",
    "warmup_proportion": "--warmup_steps, which takes a share of the steps too, such as 0.1",
    "adafactor": "--optim adafactor",
    "fp16_backend": "--fp16",
    "half_precision_backend": "--fp16",
    "fp16_opt_level": "--fp16",
    "jit_mode_eval": "nothing; python -m recipe.serving.export makes a faster model",
    "torchdynamo": "--compile_tail on",
    "sharded_ddp": "accelerate launch --config_file configs/accelerate/zero2.yaml",
    "tpu_num_cores": "accelerate launch",
    "dispatch_batches": "nothing: the recipe divides its batches among processes itself",
    "split_batches": "nothing: the recipe divides its batches among processes itself",
    "save_safetensors": "nothing: weights are always saved as safetensors",
    "include_tokens_per_second": "nothing: the encoding's tokens a second are printed",
    "include_inputs_for_metrics": "--do_predict, which writes each pair beside its answer",
    "push_to_hub_model_id": "--hub_model_id",
    "push_to_hub_organization": "--hub_model_id OWNER/NAME",
    "push_to_hub_token": "--hub_token, or HF_TOKEN in the environment",
    "use_auth_token": "HF_TOKEN in the environment",
    "token": "HF_TOKEN in the environment",
    "lr": "--learning_rate",
    "epochs": "--num_train_epochs",
    "num_epochs": "--num_train_epochs",
    "max_seq_length": "--max_length",
    "max_seq_len": "--max_length",
    "pad_to_max_length": "nothing: batches are padded to their longest pair",
    "cutoff_len": "--max_length",
    "freeze_trainable_layers": "--freeze_layers, which names those that are frozen: 0-9 leaves the last two of twelve",
    "freeze_trainable_modules": "--freeze_modules and --unfreeze_modules",
    "freeze_extra_modules": "--freeze_embeddings false, or --unfreeze_modules",
    "finetuning_type": "nothing: freezing is what is done",
    "lora_rank": "--freeze_layers: layers are frozen or trained, without adapters",
    "lora_alpha": "--freeze_layers: layers are frozen or trained, without adapters",
    "lora_target": "--freeze_layers: layers are frozen or trained, without adapters",
    "val_size": "make check-data SPLIT=0.1, which makes a validation split",
    "metric_name": "--metric_for_best_model",
    "end_to_end": "--freeze_layers all, which trains the head alone",
    "body_learning_rate": "--learning_rate, for all that is trained",
    "head_learning_rate": "--learning_rate, for all that is trained",
    "samples_per_label": "--max_train_samples, the first so many",
    "task_name": "--dataset_name and --dataset_config_name",
    "dataset": "--dataset_name, or --data_dir for files",
    "dataset_path": "--data_dir",
    "train_data_file": "--train_file",
    "eval_data_file": "--validation_file",
    "eval_file": "--validation_file",
    "dev_file": "--validation_file",
    "num_labels": "--label_names, in the order of their ids, or --task_type regression",
    "problem_type": "--task_type",
    "do_regression": "--task_type regression",
    "max_predict_samples": "nothing: --do_predict answers all of the test split",
    "model": "--model_name_or_path",
    "model_name": "--model_name_or_path",
    "model_path": "--model_name_or_path",
    "config_name": "--model_name_or_path, whose config.json is read",
    "tokenizer_name": "--model_name_or_path, whose tokenizer is read",
    "use_fast_tokenizer": "nothing: the tokenizer is always the fast one",
    "do_lower_case": "nothing: the tokenizer's own files say it",
    "trust_remote_code": "nothing: no code beside a model is run",
    "torch_dtype": "--dtype",
    "cache_dir": _FILES,
    "overwrite_cache": "make clean-cache; a prefix cache is only read where its weights and data are the same",
    "early_stopping": "--early_stopping_patience",
    "early_stopping_threshold": "--early_stopping_patience, of evaluations without any gain",
    "early_stopping_metric": "--metric_for_best_model",
    "num_train_steps": _STEPS,
    "max_train_steps": _STEPS,
    "total_steps": _STEPS,
    "max_eval_steps": "--max_eval_samples",
    "max_samples": "--max_train_samples and --max_eval_samples",
    "per_device_batch_size": f"{_BATCH} and {_EVAL_BATCH}",
    "accumulation_steps": "--gradient_accumulation_steps",
    "gradient_clipping": "--max_grad_norm",
    "num_workers": "--dataloader_num_workers",
    "xpu_backend": "--ddp_backend",
    "use_gpu": "nothing: a GPU that is there is used",
    "use_cuda": "nothing: a GPU that is there is used",
    "no_gpu": "--use_cpu",
    "fp32": "nothing: what is trained is float32; --bf16 computes in 16 bits",
    "amp": "--bf16",
    "mixed_precision": "--bf16 or --fp16",
    "revision": "--model_name_or_path with the folder of a download of it",
    "model_revision": "--model_name_or_path with the folder of a download of it",
    "hf_token": "HF_TOKEN in the environment",
    "text_column_name": "--text_column_names",
    "sentence1_key": "--text_column_names",
    "id_column": "--id_column_name",
    "label_column": "--label_column_name",
    "sep": "--delimiter",
    "header": "--column_names, where line 1 is a row",
    "file_format": "--data_format",
    "no_train": "--do_eval or --do_predict alone",
    "no_eval": "--eval_strategy no",
    "no_save": "--save_strategy no",
    "no_resume": "--resume never",
}


def hint(flag: str, known: Mapping[str, Action]) -> str:
    """What to give in place of an unknown flag, as the end of a sentence.

    Never a flag that is refused or does the opposite.

    Args:
        flag: its name, with dashes before it or without, as the names in `known` are.
    """
    name = flag.lstrip("-").replace("-", "_")
    names: dict[str, str] = {}
    for each in known:  # --learning_rate stands before --learning-rate
        names.setdefault(each.lstrip("-").replace("-", "_"), each)
    if name in INSTEAD:
        return f"; what does it here is {INSTEAD[name]}"
    if name in HIDDEN:
        return f"; it is no flag here: {HIDDEN[name]}"
    positive = name.removeprefix("no_")
    if positive != name and positive in names:
        choices = known[names[positive]].choices or ["false"]
        off = next((word for word in ("false", "off", "no") if word in choices), None)
        return f"; did you mean '--{positive} {off}'?" if off else "; --help lists what there is"
    alike = [each for each in names if each not in REFUSED and each.startswith("no_") == name.startswith("no_")]
    match = difflib.get_close_matches(name, alike, n=1, cutoff=0.8)
    return f"; did you mean {names[match[0]]!r}?" if match else "; --help lists what there is"
