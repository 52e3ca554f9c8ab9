#!/usr/bin/env python3
"""Fine-tune a Chinese BERT on sentence pairs with most of its layers frozen.

python run_freeze.py --freeze_layers 0-9
python run_freeze.py configs/afqmc.yaml --learning_rate 3e-5
accelerate launch run_freeze.py
python run_freeze.py --do_eval --model_name_or_path outputs/freeze
"""

import sys

from recipe.parsing import exit_on_user_error, parse


def main() -> None:
    """Parse, run, report."""
    arguments = parse(sys.argv[1:])
    if arguments.training.only_evaluates:
        from recipe.evaluation import evaluate
        from recipe.progress import say
        from recipe.reporting import format_evaluation

        metrics = evaluate(arguments)
        say(arguments.training, format_evaluation(arguments, metrics))
        return
    from recipe.progress import say
    from recipe.reporting import format_summary
    from recipe.training import train

    report = train(arguments)
    say(arguments.training, format_summary(report, arguments.training.output_dir))


if __name__ == "__main__":
    exit_on_user_error(main)
