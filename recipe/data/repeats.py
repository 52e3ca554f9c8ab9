"""What stands several times in a split, or in two, by its text but for case, width and white space."""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from recipe.data.pairs import UNLABELLED


class Keys(NamedTuple):
    """What a pair is found by: its two sentences, of which a single sentence's second is empty."""

    first: bytes
    second: bytes

    def swapped(self) -> "Keys":
        """The pair with its sentences in the other order."""
        return Keys(self.second, self.first)


class Repeats(NamedTuple):
    """How much of a split stands in it several times.

    Attributes:
        rows: that repeat an earlier one, whatever their labels.
        contradicting: pairs that stand there with several labels.
        swapped: pairs that stand there in the other order too, each two counted once.
        swapped_contradicting: those of them whose labels differ between the orders.
    """

    rows: int
    contradicting: int
    swapped: int
    swapped_contradicting: int


class Overlap(NamedTuple):
    """How much of a split stands in another too: rows, in either order; those with another label there; sentences."""

    rows: int
    contradicting: int
    sentences: int


class Texts:
    """The pairs of a split as keys: `rows` in order, and the labels that each pair has."""

    def __init__(self, pairs: Iterable[dict[str, Any]]) -> None:
        self.rows: list[Keys] = []
        self.labels: defaultdict[Keys, set[int]] = defaultdict(set)
        for pair in pairs:
            keys = Keys(sentence_key(pair["sentence1"]), sentence_key(pair["sentence2"]))
            self.rows.append(keys)
            self.labels[keys] |= {pair["label"]} - {UNLABELLED}

    @property
    def sentences(self) -> set[bytes]:
        """All of them."""
        return {key for keys in self.labels for key in keys if key}

    def repeats(self) -> Repeats:
        """What stands several times in it."""
        labels = self.labels
        both = [keys for keys in labels if keys.first < keys.second and keys.swapped() in labels]
        contradicting = sum(len(found) > 1 for found in labels.values())
        differ = sum(labels[keys] != labels[keys.swapped()] for keys in both)
        return Repeats(len(self.rows) - len(labels), contradicting, len(both), differ)

    def overlap(self, other: "Texts") -> Overlap:
        """What of its rows stands in `other` too."""
        rows = contradicting = 0
        for keys in self.rows:
            there = [other.labels[each] for each in {keys, keys.swapped()} if each in other.labels]
            rows += bool(there)
            contradicting += bool(self.labels[keys]) and any(found - self.labels[keys] for found in there)
        return Overlap(rows, contradicting, len(self.sentences & other.sentences))


def sentence_key(sentence: str | None) -> bytes:
    """8 bytes that a sentence is found by: as NFKC, without case and white space; none for none."""
    if sentence is None:
        return b""
    plain = "".join(unicodedata.normalize("NFKC", sentence).casefold().split())
    return hashlib.blake2b(plain.encode(), digest_size=8).digest()
