#!/usr/bin/env python3
"""Answers pairs of sentences, JSON lines in and out, with numpy, onnxruntime and tokenizers alone.

python serve.py < pairs.jsonl     # {"sentence1": ..., "sentence2": ...}; --int8 for the small model

A model of single sentences takes rows with sentence1 and without sentence2. What else is in a row is carried along.
"""

import json
import os
import signal
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

HERE = Path(__file__).parent
CONFIG = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
NAMES = [CONFIG["id2label"][str(label)] for label in range(len(CONFIG["id2label"]))]
SCORES = len(NAMES) == 1  # a regression
BATCH, MAX_LENGTH = 64, CONFIG["max_length_of_run"]
KEYS = ("sentence1", "sentence2") if CONFIG["unit_of_run"] == "pairs" else ("sentence1",)
EXPECTED = "JSON with text that can be seen as " + ("sentence1 and sentence2" if len(KEYS) > 1 else "sentence1 alone")
UNSEEN = {"Cc", "Cf", "Co", "Mn", "Zl", "Zp", "Zs"}  # as recipe.rows.sentences has it
BLANK = "\ufffd\u115f\u1160\u2800\u3164\uffa0"

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


def read_pairs(lines: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], tuple[str, str] | str]]:
    """Each line's row and its sentences; the first line that has none ends the script."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            texts = [row[key] for key in KEYS]
            "".join(texts).encode()  # which half a character cannot be
            good = all(map(seen, texts)) and ("sentence2" in row) == ("sentence2" in KEYS)
        except (ValueError, TypeError, KeyError, RecursionError):
            good = False
        if not good:
            said = line.strip()[:80].decode(errors="replace")
            refuse(f"standard input:{number}: {said!r}: {EXPECTED} is expected")
        yield row, (texts[0], texts[1]) if len(texts) > 1 else texts[0]


def seen(text: str) -> bool:
    """Whether there is something in a sentence that takes ink."""
    return any(unicodedata.category(each) not in UNSEEN and each not in BLANK for each in text)


def as_line(row: dict[str, Any]) -> str:
    """A row as JSON, in ASCII where the encoding of standard output lacks one of its characters."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return json.dumps(row)
    return line


def refuse(problem: str) -> NoReturn:
    """End by one line, with the status of a user's error."""
    print(f"serve.py: error: {problem}", file=sys.stderr)
    sys.exit(2)


def main() -> None:
    """Answer what is on standard input."""
    # Ctrl-C, and a reader that wants no more, end it as they end a shell's tools; behind nohup Ctrl-C is ignored.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for word in sys.argv[1:]:
        if word != "--int8":
            refuse(f"{word}: --int8 is the only flag; pairs come on standard input: serve.py < pairs.jsonl")
    for name in ("input", "output"):
        if getattr(sys, f"std{name.removesuffix('put')}") is None:
            refuse(f"standard {name}: it is closed; serve.py < pairs.jsonl > answers.jsonl is expected")
    pairs = list(read_pairs(sys.stdin.buffer))
    try:
        for (row, _), found in zip(pairs, answer([texts for _, texts in pairs]), strict=True):
            best = round(float(found.max()), 6)
            label = {"prediction": best} if SCORES else {"prediction": NAMES[found.argmax()], "probability": best}
            print(as_line(row | label))
        sys.stdout.flush()
    except OSError as error:
        print(f"serve.py: error: standard output: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(1)  # what is left in the buffer has no place either


if __name__ == "__main__":
    main()
