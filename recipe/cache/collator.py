"""Batches out of examples: padded tokens, states looked up in a prefix cache, or both."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recipe.batches.tokens import Example


def collate(examples: Sequence[Example] | None, pad_token_id: int) -> dict[str, Tensor]:
    """A batch with labels (batch,), float32 where they are scores: padded tokens, or states from a prefix cache.

    Where some pairs have states and others do not, both: `missing` (some,) says which places the tokens are for.
    Empty for the None that stands for a batch which a resume passes by.
    """
    if examples is None:
        return {}
    kept = [place for place, example in enumerate(examples) if "cache" in example]
    if not kept:
        batch = _collate_tokens(examples, pad_token_id)
    elif len(kept) == len(examples):
        batch = _collate_states(examples)
    else:
        batch = _collate_both(examples, kept, pad_token_id)
    batch["labels"] = torch.tensor([example["labels"] for example in examples])
    return batch


def _collate_tokens(examples: Sequence[Example], pad_token_id: int) -> dict[str, Tensor]:
    """input_ids, token_type_ids and attention_mask, (batch, longest)."""
    longest = max(len(example["input_ids"]) for example in examples)
    batch = {
        name: torch.tensor([example[name] + [fill] * (longest - len(example[name])) for example in examples])
        for name, fill in [("input_ids", pad_token_id), ("token_type_ids", 0)]
    }
    lengths = torch.tensor([len(example["input_ids"]) for example in examples])
    batch["attention_mask"] = (torch.arange(longest) < lengths[:, None]).long()
    return batch


def _collate_states(examples: Sequence[Example]) -> dict[str, Tensor]:
    """prefix_states (batch, longest, hidden) and, where something is padded, attention_mask (batch, longest)."""
    states, mask = examples[0]["cache"].gather([example["index"] for example in examples])
    return {"prefix_states": states} if mask is None else {"prefix_states": states, "attention_mask": mask}


def _collate_both(examples: Sequence[Example], kept: list[int], pad_token_id: int) -> dict[str, Tensor]:
    """prefix_states and attention_mask of all places, and the tokens of those whose states are yet to be computed."""
    rest = [place for place in range(len(examples)) if place not in kept]
    tokens = _collate_tokens([examples[place] for place in rest], pad_token_id)
    found, mask_of_found = examples[kept[0]]["cache"].gather([examples[place]["index"] for place in kept])
    longest = max(found.shape[1], tokens["input_ids"].shape[1])
    states = found.new_zeros(len(examples), longest, found.shape[2])
    mask = torch.zeros(len(examples), longest, dtype=torch.long)
    states[kept, : found.shape[1]] = found
    mask[kept, : found.shape[1]] = 1 if mask_of_found is None else mask_of_found
    mask[rest, : tokens["input_ids"].shape[1]] = tokens.pop("attention_mask")
    return {"prefix_states": states, "attention_mask": mask, "missing": torch.tensor(rest), **tokens}
