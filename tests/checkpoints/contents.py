"""What lies in a checkpoint, and one made by hand."""

import json
import shutil

from safetensors.torch import load_file, save_file

from recipe.checkpoints.manifest import MANIFEST, seal

STEPS = ("--num_train_epochs=2", "--save_strategy=steps", "--save_steps=4", "--eval_strategy=steps", "--eval_steps=4")
FILES = ("trainable.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", MANIFEST)


def make_checkpoint(folder, step, **content):
    folder = folder / f"checkpoint-{step}"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(b"weights")
    (folder / "sub" / "b").write_bytes(b"")
    (folder / "trainer_state.json").write_text(json.dumps({"best_global_step": None, **content}))
    seal(folder, {"step": step, "trainable": [], "identity": {}})
    return folder


def other_model(tiny_model, folder):
    """The tiny model with one weight changed."""
    shutil.copytree(tiny_model, folder)
    values = load_file(folder / "model.safetensors")
    name = next(name for name in values if name.endswith("layer.0.output.dense.weight"))
    values[name][0, 0] += 1
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
