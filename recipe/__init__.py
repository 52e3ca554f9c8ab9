"""Freeze fine-tuning of a Chinese BERT on sentence pairs, with the Hugging Face Trainer."""

import sys

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:  # so Python names it while it looks for the module that python -m recipe... runs
    from recipe.process.exiting import end_at_once

    end_at_once()
