"""A saved model's score on its validation split."""

from pathlib import Path
from typing import Any

from transformers import set_seed

from recipe.arguments import RecipeArguments
from recipe.data import require_split, tokenize
from recipe.durable import write_json
from recipe.errors import UserError
from recipe.loading import load_config, load_model, load_tokenizer, readable_labels
from recipe.trainer import build_trainer
from recipe.training import quiet_libraries, sorted_pairs


def evaluate(arguments: RecipeArguments) -> dict[str, Any]:
    """Metrics of a fine-tuned model on the validation split, by the Trainer's names; eval_results.json beside it.

    Raises:
        UserError: the model has no classifier, or its labels are not the data's.
    """
    args = arguments.training
    quiet_libraries()
    set_seed(args.seed)
    config, options = load_config(arguments.model)
    model = load_model(arguments.model, config, options, fine_tuned=True)
    split = require_split(arguments.data, "validation")
    names = readable_labels(split.label_names)
    if list(config.id2label.values()) != names:
        raise UserError(
            f"--model_name_or_path {arguments.model.model_name_or_path}: its labels are "
            f"{', '.join(config.id2label.values())}, those of {split.source} {', '.join(names)}"
        )
    tokenizer = load_tokenizer(arguments.model, config, options)
    dataset = sorted_pairs(tokenize(split.pairs, tokenizer, arguments.data.max_length))
    trainer = build_trainer(args, model, tokenizer, eval_dataset=dataset)
    metrics = trainer.evaluate()
    if Path(args.output_dir or ".").is_dir():
        write_json(Path(args.output_dir or ".") / "eval_results.json", metrics)
    return metrics
