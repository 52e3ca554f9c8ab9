#!/usr/bin/env python3
"""Write the embedded demo: sentence pairs in AFQMC's layout, and a small BERT pre-trained on the same kind of text.

    python demo/build.py            # demo/data in a second, demo/model in about ten minutes on 2 cores

Both are functions of SEED alone; on one machine, build of torch and thread count they come out byte for byte the same.
"""

import argparse
import json
import random
from pathlib import Path
from typing import NamedTuple

from phrases import CLOSINGS, OPENINGS, PRODUCTS, QUESTIONS, WISHES

SEED = 20
SIZES = {"train": 4000, "dev": 500, "test": 500}
POSITIVE_SHARE = 0.31  # AFQMC's own
MODEL_SHAPE = {"hidden_size": 128, "num_hidden_layers": 12, "num_attention_heads": 4, "intermediate_size": 256}
MAX_POSITIONS = 128
THREADS = 2


class Meaning(NamedTuple):
    """What a question asks: indices into PRODUCTS, WISHES (group and member) and QUESTIONS."""

    product: int
    group: int
    wish: int
    question: int


class Wording(NamedTuple):
    """How it is asked: indices into the wordings of each part, an opening and a closing."""

    product: int
    wish: int
    question: int
    opening: str
    closing: str


def any_meaning(rng: random.Random) -> Meaning:
    group = rng.randrange(len(WISHES))
    return Meaning(
        rng.randrange(len(PRODUCTS)), group, rng.randrange(len(WISHES[group])), rng.randrange(len(QUESTIONS))
    )


def any_wording(rng: random.Random, meaning: Meaning) -> Wording:
    return Wording(
        rng.randrange(len(PRODUCTS[meaning.product])),
        rng.randrange(len(WISHES[meaning.group][meaning.wish])),
        rng.randrange(len(QUESTIONS[meaning.question])),
        rng.choice(OPENINGS),
        rng.choice(CLOSINGS),
    )


def say(meaning: Meaning, wording: Wording) -> str:
    question = QUESTIONS[meaning.question][wording.question].format(
        product=PRODUCTS[meaning.product][wording.product],
        wish=WISHES[meaning.group][meaning.wish][wording.wish],
    )
    closing = "" if question.endswith(("吗", "么")) and wording.closing in ("呢", "啊") else wording.closing
    return wording.opening + question + closing


def other(rng: random.Random, count: int, than: int) -> int:
    return (than + 1 + rng.randrange(count - 1)) % count


def near_miss(rng: random.Random, meaning: Meaning) -> Meaning:
    """The same question but for one part: most often another wish of the same group."""
    part = rng.choice(["wish", "wish", "wish", "product", "question"])
    if part == "wish":
        return meaning._replace(wish=other(rng, len(WISHES[meaning.group]), meaning.wish))
    if part == "product":
        return meaning._replace(product=other(rng, len(PRODUCTS), meaning.product))
    return meaning._replace(question=other(rng, len(QUESTIONS), meaning.question))


def reworded(rng: random.Random, old: Meaning, new: Meaning, wording: Wording, changes: int) -> Wording:
    """`wording` with `changes` of its parts worded afresh; a part whose meaning changed counts as one of them.

    Paraphrases and near misses so differ from their first sentence in the same number of parts, and the share of
    common characters says little about the label.
    """
    sizes = {
        "wish": len(WISHES[new.group][new.wish]),
        "question": len(QUESTIONS[new.question]),
        "product": len(PRODUCTS[new.product]),
    }
    parts = sorted(sizes, key=lambda part: (getattr(old, part) == getattr(new, part), rng.random()))
    fresh = {}
    for part in parts[:changes]:
        same = getattr(old, part) == getattr(new, part)
        fresh[part] = other(rng, sizes[part], getattr(wording, part)) if same else rng.randrange(sizes[part])
    kept = {part: min(getattr(wording, part), sizes[part] - 1) for part in parts[changes:]}
    return Wording(**fresh, **kept, opening=rng.choice(OPENINGS), closing=rng.choice(CLOSINGS))


def question_pair(rng: random.Random, same: bool) -> tuple[str, str]:
    meaning = any_meaning(rng)
    wording = any_wording(rng, meaning)
    second = meaning if same else near_miss(rng, meaning)
    return say(meaning, wording), say(second, reworded(rng, meaning, second, wording, rng.choice([1, 2, 2, 3])))


def labelled_pairs(split: str) -> list[dict[str, str | int]]:
    """The rows of one split: sentence1, sentence2 and label ("1": the same), or an id where `split` is test."""
    rng = random.Random(f"{SEED} {split}")
    labels = [number < POSITIVE_SHARE * SIZES[split] for number in range(SIZES[split])]
    rng.shuffle(labels)
    rows = []
    for number, same in enumerate(labels):
        first, second = question_pair(rng, same)
        row = {"sentence1": first, "sentence2": second}
        rows.append({"id": number, **row} if split == "test" else {**row, "label": str(int(same))})
    return rows


def conversations(count: int) -> list[tuple[str, str, int]]:
    """Unlabelled text as (first, second, next): a customer asks, and asks again in other words.

    `next` is 0 where the second question followed the first, 1 where it is the second of another conversation, half the
    time one on the same topic: BERT's next-sentence prediction, which needs no label but the order of the text.
    """
    rng = random.Random(f"{SEED} conversations")
    rows = []
    for _ in range(count):
        meaning = any_meaning(rng)
        wording = any_wording(rng, meaning)
        followed = rng.random() < 0.5
        second, start = meaning, wording
        if not followed:
            second = any_meaning(rng)
            if rng.random() < 0.5:
                second = second._replace(product=meaning.product, group=meaning.group, wish=rng.randrange(6))
            start = any_wording(rng, second)
        answer = say(second, reworded(rng, second, second, start, rng.choice([1, 2, 3])))
        rows.append((say(meaning, wording), answer, int(not followed)))
    return rows


def write_data(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split in SIZES:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in labelled_pairs(split)]
        (folder / f"{split}.json").write_text("".join(lines), encoding="utf-8")


def build_tokenizer(texts: list[tuple[str, str, int]]):
    """A BertTokenizer over the characters of `texts`."""
    from transformers import BertTokenizer

    characters = sorted({character for *pair, _ in texts for text in pair for character in text})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    return BertTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary)},
        do_lower_case=False,
        model_max_length=MAX_POSITIONS,
    )


def masked(input_ids, mask_id: int, special: int, generator):
    """Mask 20 % of the tokens that are not special: (inputs, labels), labels -100 where nothing was masked."""
    import torch

    chosen = (torch.rand(input_ids.shape, generator=generator) < 0.2) & (input_ids >= special)
    return input_ids.masked_fill(chosen, mask_id), input_ids.masked_fill(~chosen, -100)


def pretrain(folder: Path, steps: int, batch_size: int) -> None:
    """Masked language modelling and next-sentence prediction from scratch; writes the model and its tokenizer."""
    import torch
    from transformers import BertConfig, BertForPreTraining, get_linear_schedule_with_warmup, set_seed
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(THREADS)
    set_seed(SEED)
    texts = conversations(steps * batch_size)
    tokenizer = build_tokenizer(texts)
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=MAX_POSITIONS, **MODEL_SHAPE, **dropout)
    model = BertForPreTraining(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    generator = torch.Generator().manual_seed(SEED)
    total = right = 0.0
    for step in range(steps):
        first, second, following = zip(*texts[step * batch_size : (step + 1) * batch_size], strict=True)
        batch = tokenizer(list(first), list(second), padding=True, return_tensors="pt")
        batch["input_ids"], labels = masked(batch["input_ids"], tokenizer.mask_token_id, 5, generator)
        output = model(**batch, labels=labels, next_sentence_label=torch.tensor(following))
        loss = output.loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        total += loss.item()
        right += (output.seq_relationship_logits.argmax(-1) == torch.tensor(following)).float().mean().item()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps}: loss {total / 100:.3f}, next sentence {right:.1f} % right", flush=True)
            total = right = 0.0
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.1
    model.bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir", type=Path, default=Path(__file__).parent, help="where data/ and model/ are written"
    )
    parser.add_argument("--steps", type=int, default=4500, help="pre-training steps; 0 writes the data only")
    parser.add_argument("--batch_size", type=int, default=32, help="conversations a step")
    args = parser.parse_args()
    write_data(args.output_dir / "data")
    if args.steps:
        pretrain(args.output_dir / "model", args.steps, args.batch_size)


if __name__ == "__main__":
    main()
