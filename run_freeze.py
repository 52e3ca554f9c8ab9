#!/usr/bin/env python3
"""Fine-tune a Chinese BERT on sentence pairs with most of its layers frozen.

python run_freeze.py --freeze_layers 0-9
python run_freeze.py configs/afqmc.yaml --learning_rate 3e-5
accelerate launch run_freeze.py
python run_freeze.py --do_eval --model_name_or_path outputs/freeze
python run_freeze.py --do_predict --model_name_or_path outputs/freeze --test_file -
"""

import sys

from recipe.process.exiting import ending_at_once, exit_on_error


def main() -> None:
    """Parse, and do what is asked for."""
    with ending_at_once():  # imports take seconds, and Ctrl-C may come in the middle
        from recipe.command_line.parsing import parse
    arguments = parse(sys.argv[1:])
    with ending_at_once():
        from recipe.run import run
    run(arguments)


if __name__ == "__main__":
    exit_on_error(main)
