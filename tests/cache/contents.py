"""What lies in a store."""

import torch

CPU = torch.device("cpu")


def parts(store):
    return sorted(store.folder.glob("block-*"))


def rows(store, hashes, tokens):
    """The states of the pairs that are there, by place."""
    starts = store.find(hashes)
    return {
        place: store.states[start : start + length].clone()
        for place, (start, length) in enumerate(zip(starts.tolist(), tokens.lengths.tolist(), strict=True))
        if start >= 0
    }


def same(found, expected):
    return all(torch.equal(value, expected[place]) for place, value in found.items())
