from types import SimpleNamespace

import pytest

from recipe.training import workers as worker_memory
from recipe.training.workers import do_without_spawned_workers, do_without_workers_where_short


@pytest.mark.parametrize(("free", "states", "workers"), [(10**9, 64, 2), (50_000, 0, 2), (50_000, 64, 0), (9, 0, 0)])
def test_workers_are_done_without_where_their_batches_would_not_fit(
    arguments, monkeypatch, capsys, free, states, workers
):
    monkeypatch.setattr(worker_memory.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    parsed = arguments("--dataloader_num_workers=2", "--dataloader_prefetch_factor=2", "--per_device_eval_batch_size=8")
    do_without_workers_where_short(parsed, states)
    assert parsed.training.dataloader_num_workers == workers
    assert parsed.training.dataloader_prefetch_factor == (2 if workers else None)
    assert ("the run loads in its own process" in capsys.readouterr().out) is (not workers)


@pytest.mark.parametrize(("method", "workers"), [("fork", 2), ("spawn", 0)])
def test_workers_that_would_be_spawned_are_not_used(monkeypatch, capsys, method, workers):
    monkeypatch.setattr("multiprocessing.get_start_method", lambda: method)
    args = SimpleNamespace(dataloader_num_workers=2, dataloader_persistent_workers=True, process_index=0)
    do_without_spawned_workers(args)
    assert (args.dataloader_num_workers, args.dataloader_persistent_workers) == (workers, bool(workers))
    assert ("--dataloader_num_workers 2" in capsys.readouterr().out) is not bool(workers)
