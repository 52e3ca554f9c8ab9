"""Freeze fine-tuning of a Chinese BERT on sentence pairs, with the Hugging Face Trainer."""

__version__ = "0.1.0"
