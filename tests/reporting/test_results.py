import json
import os

from recipe.commands.train import train


def test_a_data_folder_whose_name_is_no_utf8_ends_well(arguments, tmp_path, pairs_dir):
    named = os.path.join(os.fsencode(tmp_path), b"\xd6\xd0\xce\xc4")
    os.symlink(os.fsencode(pairs_dir), named)
    train(arguments("--model_card=true", f"--data_dir={os.fsdecode(named)}", "--eval_strategy=no", "--max_steps=1"))
    saved = json.loads((tmp_path / "run" / "run.json").read_text())["arguments"]["data"]["data_dir"]
    assert os.fsencode(saved) == named
    assert (tmp_path / "run" / "README.md").read_bytes()
