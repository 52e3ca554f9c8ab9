import time
from types import SimpleNamespace

from recipe.process import progress
from recipe.process.progress import Progress, told_while_it_lasts


def advance(capsys, rank, done=0):
    """What is printed while 40 tokens are counted one by one."""
    args = SimpleNamespace(process_index=rank, disable_tqdm=False)
    with Progress(args, 40, "encoding a\x1bb", "token", done) as bar:
        for _ in range(40 - done):
            bar.advance(1)
    return [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]


def test_a_log_has_a_line_at_each_tenth_from_the_first_process(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", -1)
    tenths = [f"encoding a\\x1bb {done}/40" for done in range(4, 40, 4)]
    assert advance(capsys, 0) == tenths
    assert advance(capsys, 0, done=20) == tenths[5:]
    assert advance(capsys, 1) == []


def test_lines_come_no_closer_than_they_may(capsys):
    assert advance(capsys, 0) == []


def test_what_takes_long_is_said_meanwhile(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.01)
    said, deadline = "", time.monotonic() + 60
    with told_while_it_lasts("reading a"):
        while "\n" not in said and time.monotonic() < deadline:
            time.sleep(0.01)
            said += capsys.readouterr().err
    assert said.startswith("reading a: 0 s so far\n")
