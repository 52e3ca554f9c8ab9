"""What a file system may have kept when the power went, after the method of ALICE and LazyFS.

A Recorder watches a folder while something is written to it: which names appear, go and are renamed, what each file
holds, and what is fsynced. A crash then keeps of a file what its last fsync covered, and of what was written since
anything (here: all, half or nothing of it, or zeros in its place), and of the names of a folder those that an fsync of
the folder covered, and any of the later. Only a rename is kept whole or not at all.
"""

import itertools
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

WATCHED = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir")


class Change(NamedTuple):
    """Names that appear (with what they name) and names that go, at once."""

    links: dict[tuple[int, str], int]
    gone: frozenset[tuple[int, str]]


class Moment(NamedTuple):
    """A point at which the power may go."""

    mark: Any  # what had been finished
    durable: dict[tuple[int, str], int]  # (folder, name) -> what it names
    pending: tuple[Change, ...]
    safe: dict[int, bytes]  # what fsync covered of each file
    written: dict[int, bytes]


class Recorder:
    """Watches a folder; `mark` is what is finished at that time, set by who records."""

    def __init__(self, folder):
        self.folder, self.mark, self.moments = Path(folder), None, []
        self.numbers, self.next = {os.stat(folder).st_ino: 0}, itertools.count(1)
        self.names, self.durable, self.pending = {}, {}, []
        self.safe, self.written, self.stamps = {}, {}, {}
        self.look(whole=False)
        self.durable, self.pending, self.safe = dict(self.names), [], dict(self.written)

    def look(self, whole):
        """Find out what has changed; a rename is one change, files that have appeared are one each."""
        names, alive = {}, {os.stat(self.folder).st_ino: 0}
        for root, folders, files in os.walk(self.folder):
            parent = alive[os.stat(root).st_ino]
            for name in (*folders, *files):
                status = os.lstat(os.path.join(root, name))
                number = alive.get(status.st_ino, self.numbers.get(status.st_ino))
                number = next(self.next) if number is None else number
                alive[status.st_ino] = names[parent, name] = number
                stamp = (status.st_mtime_ns, status.st_size)
                if stat.S_ISREG(status.st_mode) and self.stamps.get(number) != stamp:
                    self.stamps[number], self.written[number] = stamp, Path(root, name).read_bytes()
                    if not self.written[number].startswith(self.safe.get(number, b"")):
                        del self.safe[number]  # else it was appended to
        links = {place: number for place, number in names.items() if self.names.get(place) != number}
        gone = frozenset(self.names.keys() - names.keys())
        changes = [Change(links, gone)] if whole else [Change({place: links[place]}, frozenset()) for place in links]
        changes += [Change({}, frozenset([place])) for place in gone] if not whole else []
        self.pending += [change for change in changes if change.links or change.gone]
        self.names, self.numbers = names, alive

    def synced(self, status):
        """An fsync has come back."""
        number = self.numbers.get(status.st_ino)
        if number is None:
            return
        if stat.S_ISREG(status.st_mode):
            self.safe[number] = self.written[number]
            return
        covered = [c for c in self.pending if any(place[0] == number for place in (c.links or c.gone))]
        for change in covered:
            apply(self.durable, change)
        self.pending = [change for change in self.pending if change not in covered]

    def note(self):
        """Remember this moment."""
        self.moments.append(
            Moment(self.mark, dict(self.durable), tuple(self.pending), dict(self.safe), dict(self.written))
        )


def apply(names, change):
    """Bring a change into a list of names."""
    for place in change.gone:
        names.pop(place, None)
    names.update(change.links)


@contextmanager
def recording(folder, monkeypatch):
    """Record what is done to `folder`."""
    recorder = Recorder(folder)

    def around(function, whole):
        def watched(*args, **kwargs):
            recorder.look(whole=False)
            result = function(*args, **kwargs)
            if not whole:
                recorder.synced(os.fstat(args[0]))
            recorder.look(whole)
            recorder.note()
            return result

        return watched

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", around(os.fsync, whole=False))
        for name in WATCHED:
            patched.setattr(os, name, around(getattr(os, name), whole=True))
        yield recorder
        recorder.look(whole=False)
        recorder.note()


def crash(moment, folder, rng):
    """Lay out in `folder`, which is new, what one crash at that moment leaves; `rng` chooses."""
    names, keep = dict(moment.durable), rng.choice((0.0, 0.5, 1.0))
    for change in moment.pending:
        if rng.random() < keep:
            apply(names, change)
    folder.mkdir()
    _lay_out(names, moment, 0, folder, rng)


def _lay_out(names, moment, number, folder, rng):
    for (parent, name), inner in names.items():
        if parent != number:
            continue
        if inner not in moment.written:
            (folder / name).mkdir()
            _lay_out(names, moment, inner, folder / name, rng)
            continue
        content, safe = moment.written[inner], moment.safe.get(inner, b"")
        rest = len(content) - len(safe)
        torn = [content, safe, content[: len(safe) + rest // 2], safe + bytes(rest)]
        (folder / name).write_bytes(rng.choice(torn))
