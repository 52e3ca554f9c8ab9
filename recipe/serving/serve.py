#!/usr/bin/env python3
"""Answers pairs of sentences, JSON lines in and out, with numpy, onnxruntime and tokenizers alone.

python serve.py < pairs.jsonl     # {"sentence1": ..., "sentence2": ...}; --int8 for the small model

A model of single sentences takes rows without sentence2.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
NAMES = [CONFIG["id2label"][str(label)] for label in range(len(CONFIG["id2label"]))]
SCORES = len(NAMES) == 1  # a regression
BATCH, MAX_LENGTH = 64, CONFIG.get("max_length_of_run", 128)

session = onnxruntime.InferenceSession(HERE / ("model_int8.onnx" if "--int8" in sys.argv[1:] else "model.onnx"))
tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
tokenizer.enable_truncation(MAX_LENGTH)
tokenizer.enable_padding(pad_id=CONFIG["pad_token_id"], pad_token=tokenizer.id_to_token(CONFIG["pad_token_id"]))


def answer(pairs: list[tuple[str, str] | str]) -> np.ndarray:
    """The probability of each label, (pairs, labels), or the score, (pairs, 1); pairs of like length go together."""
    order = sorted(range(len(pairs)), key=lambda place: len("".join(pairs[place])))
    found = np.empty((len(pairs), len(NAMES)))
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        encoded = tokenizer.encode_batch([pairs[place] for place in places])
        inputs = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        feed = {name: np.array([getattr(each, part) for each in encoded]) for name, part in inputs.items()}
        logits = session.run(None, feed)[0].astype(np.float64)
        chances = np.exp(logits - logits.max(-1, keepdims=True))
        found[places] = logits if SCORES else chances / chances.sum(-1, keepdims=True)
    return found


if __name__ == "__main__":
    rows = [json.loads(line) for line in sys.stdin if line.strip()]
    texts = [(row["sentence1"], row["sentence2"]) if "sentence2" in row else row["sentence1"] for row in rows]
    for row, found in zip(rows, answer(texts), strict=True):
        best = round(float(found.max()), 6)
        label = {"prediction": best} if SCORES else {"prediction": NAMES[found.argmax()], "probability": best}
        print(json.dumps(row | label, ensure_ascii=False))
