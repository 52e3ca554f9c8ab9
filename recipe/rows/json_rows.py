"""JSON objects, one a line or in one array, in memory one at a time."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from recipe.errors import UserError

LONGEST_RECORD = 1 << 24  # bytes of a line, characters of an array's element
CHUNK = 1 << 16  # characters
SPACE = " \t\r\n"


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key given twice, json.loads would keep the last value without a word."""
    record = dict(items)
    if len(record) < len(items):
        seen: set[str] = set()
        twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.40} stands twice in it")
    return record


DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def begins_array(start: bytes) -> bool:
    """Whether a file that starts with these bytes is one array."""
    return start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def array_rows(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    """The elements of the array that is all of the file, as ("file row N", element).

    Raises:
        UserError: it is not JSON, with the line.
    """
    text, number = _Text(path, file), 0
    text.expect("[")
    while text.next() != "]":
        if number:
            text.expect(",")
        number += 1
        yield f"{path} row {number}", text.element()
    text.expect("]")
    if text.next():
        raise text.error("Extra data", text.place)


class _Text:
    """A file's text behind a place that moves on; what is passed is forgotten but for its lines."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.held, self.place, self.lines = path, "", 0, 1
        self.file = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")

    def read_on(self) -> bool:
        """Hold as much again; False at the end of the file, or where one element would be longer than any may be."""
        if len(self.held) - self.place > LONGEST_RECORD:
            return False
        more = self.file.read(max(CHUNK, len(self.held) - self.place))
        if not more:
            return False
        self.lines += self.held.count("\n", 0, self.place)
        self.held, self.place = self.held[self.place :] + more, 0
        return True

    def next(self) -> str:
        """The next character that is no white space, where the place is then; an empty string at the end."""
        while True:
            while self.place < len(self.held) and self.held[self.place] in SPACE:
                self.place += 1
            if self.place < len(self.held) or not self.read_on():
                return self.held[self.place : self.place + 1]

    def expect(self, character: str) -> None:
        """Pass `character`."""
        if self.next() != character:
            raise self.error(f"Expecting {character!r}", self.place)
        self.place += 1

    def element(self) -> Any:
        """The next element."""
        self.next()
        while True:
            try:
                found, end = DECODER.raw_decode(self.held, self.place)
                if end < len(self.held) or not self.read_on():  # else a number may go on
                    self.place = end
                    return found
            except (ValueError, RecursionError) as error:
                if not self.read_on():
                    raise self.error(getattr(error, "msg", str(error)), getattr(error, "pos", self.place)) from error

    def error(self, reason: str, place: int) -> UserError:
        """What is wrong, and at which line."""
        line = self.lines + self.held.count("\n", 0, place)
        return UserError(f"{self.path}:{line}: not JSON: {reason}; one object a line is the usual form")
