import os
import subprocess
import sys

from tests.utils import ROOT


def test_no_backend_of_the_environments_costs_a_figure(tmp_path):
    code = "import sys, types; metrics = types.SimpleNamespace(calibration_bins=None)\n"  # without torch
    code += "sys.modules['recipe.evaluation.metrics'] = metrics\n"
    code += "from recipe.reporting.figures import new_figure; new_figure(1, 1).savefig(sys.argv[1])"
    env = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, tmp_path / "figure.png"], env=env, check=True)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
