"""How the frozen prefix comes to the tail: what a checkpoint's manifest says of it, and a resume compares."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from recipe.cache.cached_split import CachedSplit
from recipe.errors import Damaged

SHAPE = {"dtype": (str, None), "compute_dtype": (str, None), "kept": int, "pairs": int, "compiled": bool}
SENTENCE = re.compile(r"in (\w+), computed in (\w+)(?:, ([\d,]+) of ([\d,]+) pairs)?(, tail compiled)?")


class PrefixState(NamedTuple):
    """Of a run that trains from the prefix cache; `NO_CACHE` of one that computes the prefix in every step.

    Attributes:
        dtype: how states are stored, None without a cache.
        compute_dtype: how they were computed.
        kept: pairs whose states are in the cache; 0 where all `pairs` are.
        compiled: whether the tail runs compiled, in which dropout draws other numbers.
    """

    dtype: str | None = None
    compute_dtype: str | None = None
    kept: int = 0
    pairs: int = 0
    compiled: bool = False

    def __str__(self) -> str:
        """In words, behind 'prefix cache'."""
        if self.dtype is None:
            return "off"
        some = f", {self.kept:,} of {self.pairs:,} pairs" if self.kept else ""
        return f"in {self.dtype}, computed in {self.compute_dtype}{some}{', tail compiled' * self.compiled}"


NO_CACHE = PrefixState()


def prefix_state(cached: Sequence[CachedSplit] | None, compiled: bool = False) -> PrefixState:
    """Of a run over these splits; None where none of them is cached."""
    if not cached:
        return NO_CACHE
    manifest = cached[0].cache.manifest
    kept, pairs = sum(each.kept for each in cached), sum(len(each.lengths) for each in cached)
    some = (kept, pairs) if kept < pairs else (0, 0)
    return PrefixState(manifest["dtype"], manifest["compute_dtype"], *some, compiled)


def recorded_state(said: Any) -> PrefixState:
    """The state that a manifest records: an object, or a sentence in those of earlier releases.

    Raises:
        Damaged: it is neither.
    """
    if isinstance(said, dict):
        return PrefixState(**{name: said[name] for name in SHAPE})
    match = SENTENCE.fullmatch(said)
    if match is None and said != "off":
        raise Damaged(f"prefix is {said!r:.60}; an object is expected")
    if match is None:
        return NO_CACHE
    kept, pairs = (int((number or "0").replace(",", "")) for number in match.group(3, 4))
    return PrefixState(match[1], match[2], kept, pairs, bool(match[5]))
