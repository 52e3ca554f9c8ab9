import ast
import errno
import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

from recipe.system import locks
from recipe.system.locks import lock

RECIPE = Path(locks.__file__).parents[1]
POSIX_ONLY = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog"}


def test_one_holds_it_and_several_share_it(tmp_path):
    path = tmp_path / "file"
    held = lock(path, create=True)
    for shared in (False, True):
        with pytest.raises(BlockingIOError):
            lock(path, shared=shared)
    held.release()
    readers = [lock(path, shared=True) for _ in range(2)]
    with pytest.raises(BlockingIOError):
        lock(path)
    del readers  # nothing refers to them any more
    assert lock(path).certain


def test_a_file_that_is_gone_or_a_link_is_not_locked(tmp_path):
    with pytest.raises(FileNotFoundError):
        lock(tmp_path / "gone")
    (tmp_path / "target").write_text("the user's")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="link"):
        lock(tmp_path / "link", create=True)


def test_a_forked_worker_does_not_go_on_holding_it(tmp_path):
    held = lock(tmp_path / "file", create=True)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, b"x")
        signal.pause()
    os.read(reader, 1)
    try:
        held.release()  # as the system does it for a parent that is killed
        lock(tmp_path / "file").release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("missing", ["module", "file system"])
def test_where_there_are_no_locks_it_says_that_it_is_not_certain(tmp_path, monkeypatch, missing):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    if missing == "module":
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(locks.fcntl, "flock", flock)
    assert not lock(tmp_path / "file", create=True).certain


@pytest.mark.parametrize("name", ["system/locks", "reporting/console"])
def test_a_module_does_without_what_windows_lacks(monkeypatch, name):
    for missing in POSIX_ONLY:
        monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delattr(os, "register_at_fork")
    spec = importlib.util.spec_from_file_location(f"{Path(name).name}_elsewhere", RECIPE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    assert not POSIX_ONLY & {getattr(value, "__name__", None) for value in vars(module).values()}


def test_no_other_module_imports_it():
    importers = set()
    for path in RECIPE.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            importers |= {path.name} if POSIX_ONLY & set(names) else set()
    assert importers == {"locks.py", "allocator.py"}
