"""Text of a user's or a stranger's, made harmless where it is shown: in a terminal, a model card, and on the Hub."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

JOINER = "\u200d"  # which emoji are made of
SECRET = re.compile(r"--\w+[_-]token(=|$)")
LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
CLAUSE = re.compile(r"; | \(|: (?=leave )|, (?=or |unless )")  # where the part of an error on what to do begins
MARKDOWN = re.compile(r"[\\`*_\[\]()<>!|~&:@$]|(?<=www)\.")


def shown(text: str, lines: bool = False) -> str:
    """`text` for a terminal, with escapes in place of what would move the cursor, colour, or hide and turn text.

    Args:
        lines: whether newlines stay; without it the result is one line.
    """
    return "".join("\n" if lines and each == "\n" else _shown(each) for each in text)


def _shown(character: str) -> str:
    """A character, unless it is for control, turns the writing direction, separates lines or has no meaning."""
    if character.isprintable() or character == JOINER or unicodedata.category(character) == "Zs":  # a wide space
        return character
    return character.encode("unicode_escape").decode()


def markdown(text: str) -> str:
    """`text` for a card, in one line: every character that Markdown or HTML gives a meaning as an entity.

    So no sentence becomes a link, image, heading or cell, and no bare address a link.
    """
    return MARKDOWN.sub(lambda match: f"&#{ord(match[0])};", shown(" ".join(text.split())))


def fenced(text: str, language: str = "") -> str:
    """`text` as a code block, in a fence that is longer than any run of backticks in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{shown(text, lines=True)}\n{fence}"


def one_line(said: object, limit: int = 300) -> str:
    """What a library says in an error, without its line breaks, cut where it becomes an essay."""
    text = " ".join(str(said).split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def before_clause_with(pattern: re.Pattern[str], text: str) -> str:
    """`text` up to the clause of an error in which `pattern` is found; whole where it is not."""
    found = pattern.search(text)
    if found is None:
        return text
    *_, end = [0, *(clause.start() for clause in CLAUSE.finditer(text, 0, found.start()))]
    return text[:end] + ")" * (text.count("(", 0, end) - text.count(")", 0, end))


def without_logins(text: str) -> str:
    """`text` without the user and password of its addresses, such as those of a mirror or a proxy."""
    return LOGIN.sub("", text)


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line's words without the flags whose values are secrets, and their values."""
    kept: list[str] = []
    words = list(words)
    while words:
        word = words.pop(0)
        if not SECRET.match(word):
            kept.append(word)
        elif "=" not in word and words:
            words.pop(0)
    return kept


def without_places(content: Any) -> Any:
    """JSON content, or a command line's words, whose absolute paths on this machine are their last names alone.

    A path is the whole of a text, or stands behind the = of a flag; text that only looks like one stays.
    """
    if isinstance(content, dict):
        return {key: without_places(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_places(value) for value in content]
    if not isinstance(content, str):
        return content
    flag, equals, value = content.partition("=") if content.startswith("--") else ("", "", content)
    parts = Path(value).parts
    here = len(parts) > 1 and Path(value).is_absolute() and os.path.exists(os.path.join(*parts[:2]))
    return f"{flag}{equals}{parts[-1]}" if here else content
