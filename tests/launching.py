"""accelerate launch as a user types it: one machine, or two that share no disk; and small Python processes."""

import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from tests.utils import ROOT, spend_little


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def small_run(model, pairs, cache):
    """The flags of a small run."""
    flags = ["--model_name_or_path", model, "--data_dir", pairs, "--freeze_layers", "0-1", "--max_length", "32"]
    flags += ["--logging_steps", "1", "--use_cpu", "--per_device_train_batch_size", "16", "--prefix_cache_dir", cache]
    return [*map(str, flags), "--model_card=false", "--bf16=false"]


def start(words, launch_words=("--num_processes=2",), port=None, **popen):
    """Start run_freeze.py with `words` under accelerate launch."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += [*launch_words, f"--main_process_port={port or free_port()}", str(ROOT / "run_freeze.py"), *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, **{"cwd": ROOT, "env": env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | popen
    )


def start_machines(words, folders):
    """The same words on two machines of one process each; their working directories are `folders`."""
    port, processes = free_port(), []
    for number, folder in enumerate(folders):
        folder.mkdir(exist_ok=True)
        place = ["--num_machines=2", "--num_processes=2", f"--machine_rank={number}", "--main_process_ip=127.0.0.1"]
        processes.append(start(words, place, port, cwd=folder))
    return processes


def finished(process):
    """What a process printed; it must have ended well."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


# ---- without the launcher: forked from a process that has imported everything, a second each ----

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["recipe.commands.train", "recipe.command_line.parsing", "recipe.errors"])


class Ended(NamedTuple):
    """What a process that has ended left: its status, and what it printed."""

    status: int
    out: str
    err: str


def fork_ranks(words, folders, machines=False, env=None, prepare=None):
    """Run two ranks to their ends, each in its folder: of one machine, or of two that share no disk.

    `env` is added to their environment; `prepare` is called in each before it starts.
    """
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = []
    for rank, folder in enumerate(folders):
        folder.mkdir(exist_ok=True)
        local = {"LOCAL_RANK": "0" if machines else str(rank), "LOCAL_WORLD_SIZE": "1" if machines else "2"}
        environment = {**place, **local, "RANK": str(rank), **(env or {})}
        args = environment, str(folder), words, str(folder / f"rank-{rank}"), prepare
        processes.append(FORKS.Process(target=_run_rank, args=args))
        processes[-1].start()
    ended = []
    for rank, (process, folder) in enumerate(zip(processes, folders, strict=True)):
        process.join(120)
        process.kill()
        log = folder / f"rank-{rank}"
        texts = [Path(f"{log}.{kind}").read_text() for kind in ("out", "err")]
        for kind in ("out", "err"):
            Path(f"{log}.{kind}").unlink()
        ended.append(Ended(process.exitcode, *texts))
    return ended


def _run_rank(env, folder, words, log, prepare):
    os.environ.update(env)
    os.chdir(folder)
    sys.argv = ["run_freeze.py", *words]
    for number, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{log}.{kind}", os.O_WRONLY | os.O_CREAT), number)
    import run_freeze
    from recipe.process.exiting import exit_on_error

    spend_little()
    if prepare is not None:
        prepare()
    exit_on_error(run_freeze.main)


# ---- the configuration files of accelerate launch ----

CONFIGS = ROOT / "configs" / "accelerate"


def settings(name):
    """The environment that accelerate launch makes of a configuration file."""
    args = launch_command_parser().parse_args(["--config_file", str(CONFIGS / name), "run_freeze.py"])
    return prepare_multi_gpu_env(_validate_launch_command(args)[0])


def fsdp_env():
    """The part of it that has accelerate shard by FSDP2."""
    names = ("ACCELERATE_USE_FSDP", "FSDP_")
    return {name: value for name, value in settings("fsdp2.yaml").items() if name.startswith(names)}


# ---- a process with standard streams as they may be, which imports nothing heavy ----

START = "import sys, os; from recipe.process.exiting import exit_on_error; "
START += "from recipe.process.streams import may_be_lost, write_out\n"


def run_code(code, redirections, *words, **env):
    """Run Python code behind START in a shell, under its redirections."""
    command = f'"$0" -c "$1" "$2" {redirections}'
    script = START + code
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, sys.executable, script, *map(str, words)],
        capture_output=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **env},
        check=False,
    )
