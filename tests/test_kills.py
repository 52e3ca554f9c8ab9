import json
import os
import subprocess
import sys

from tests.utils import ROOT


def test_a_run_killed_at_file_operations_carries_on_to_the_same_bytes():
    """Every seventieth of the operations that `python -m tests.kill_points` kills at, and each time the resume too."""
    command = [sys.executable, "-m", "tests.kill_points", "70", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["operations"] > 80  # the hook sees what a run does
    assert told["kills"] >= 3
    assert told["wrong"] == []
