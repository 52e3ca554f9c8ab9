"""What a sentence is: text of a length that can be read, with something in it that can be seen."""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from recipe.errors import BadRow

HALF = re.compile("[\ud800-\udfff]")
LONGEST = 1_000_000  # characters of a sentence; the tokenizer takes 0.5 kB for each
# Categories that BERT's normaliser removes or that take no ink: controls, formats (zero-width space, BOM, soft hyphen),
# private use, white space, marks on no letter; and characters that other categories hide.
UNSEEN = {"Cc", "Cf", "Co", "Mn", "Zl", "Zp", "Zs"}
BLANK = "\ufffd\u115f\u1160\u2800\u3164\uffa0"


def sentence_of(where: str, key: str, record: Mapping[str, Any]) -> str:
    """A row's sentence under `key`.

    Args:
        where: "file:line", for the error.

    Raises:
        BadRow: it is not text, or empty, too long, or not UTF-8.
    """
    value = record[key]
    if not isinstance(value, str):
        raise BadRow(f"{where}: {key} is {value!r:.40}; a string is expected")
    if not any(map(_seen, value)):
        raise BadRow(f"{where}: {key} " + (f"has no visible character: {value!a:.40}" if value.strip() else "is empty"))
    if half := HALF.search(value):
        what = "a byte that is not UTF-8" if "\udc80" <= half[0] <= "\udcff" else "half a character (a lone surrogate)"
        raise BadRow(f"{where}: {key} holds {what}: {value!r:.40}")
    if len(value) > LONGEST:
        raise BadRow(f"{where}: {key} has {len(value):,} characters; at most {LONGEST:,} are expected")
    return value


def _seen(character: str) -> bool:
    return unicodedata.category(character) not in UNSEEN and character not in BLANK
