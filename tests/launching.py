"""accelerate launch, as a user types it: processes on one machine, or two machines that share no disk."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def small_run(model, pairs, cache):
    """The flags of a small run."""
    flags = ["--model_name_or_path", model, "--data_dir", pairs, "--freeze_layers", "0-1", "--max_length", "32"]
    flags += ["--logging_steps", "1", "--use_cpu", "--per_device_train_batch_size", "16", "--prefix_cache_dir", cache]
    return [*map(str, flags), "--model_card=false"]


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
