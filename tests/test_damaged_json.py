"""Each JSON file that a run, a sweep or a cache writes, with valid JSON of another shape in it: one line at most."""

import copy
import json
import shutil
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.checkpoints import resuming
from recipe.checkpoints.manifest import MANIFEST, _digest, open_checkpoint, seal
from recipe.command_line.parsing import parse
from recipe.command_line.saved_run import saved_arguments
from recipe.commands.evaluate import _at_chosen_threshold
from recipe.commands.merge_checkpoint import RECORDED, rebuild
from recipe.commands.prefix_cache import list_caches, prune
from recipe.commands.train import train
from recipe.errors import Damaged, RunError, UserError
from recipe.evaluation.answers import Answers
from recipe.reporting import console as reporting
from recipe.reporting.outputs import check_output, missing_files
from recipe.studies import points
from recipe.system.files import sha256_of
from recipe.system.json_files import misfit
from tests.utils import QUICK

DEEP = object()
OTHERS = [None, [], {}, "3", 3, -1.5, True, 10**30, float("nan"), float("inf"), [None], {"a": None}, DEEP]


def text_of(content):
    return json.dumps(content, default=lambda _: "DEEP").replace('"DEEP"', "[" * 999 + "]" * 999)


def places(content, place=()):
    """The ways to each value of a content."""
    yield place
    if isinstance(content, (dict, list)):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from places(value, (*place, key))


def changed(content, place, other, removed):
    """A copy with another value at a place, or without it."""
    if not place:
        return other
    content = copy.deepcopy(content)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    if removed:
        del inner[place[-1]]
    else:
        inner[place[-1]] = other
    return content


@pytest.fixture(scope="module")
def made(tiny_model, pairs_dir, tmp_path_factory):
    """The folder of a finished run with its cache beside it, and what a resume of it compares."""
    folder = tmp_path_factory.mktemp("made")
    build = arguments_of(tiny_model, pairs_dir, folder)
    train(build("--prefix_cache=on"))
    identity = json.loads((folder / "run" / "run.json").read_text())["identity"]
    return folder, build, identity


def arguments_of(model, pairs, folder):
    words = {"model_name_or_path": model, "data_dir": pairs, "freeze_layers": "0-1", "max_length": 32}
    words |= {"output_dir": folder / "run", "prefix_cache_dir": folder / "cache", "num_train_epochs": 1}
    words |= {"per_device_train_batch_size": 8, "model_card": "false"}
    return lambda *more: parse([*(f"--{key}={value}" for key, value in words.items()), *more, "--use_cpu=true"])


def resume(folder, build, identity):
    resuming._look(build(), identity, 70, sys.maxsize)
    resuming._finished_report(folder / "run")
    check_output(folder / "run", "elsewhere")


def report(folder, build, identity):
    assert "this run has finished" in reporting.format_finished(str(folder / "run"))
    missing_files(folder / "run", ["all_results.json", "trainer_state.json"])


def threshold(folder, build, identity):
    answers = Answers(np.zeros((3, 2)), np.zeros(3, dtype=int), 1.0)
    _at_chosen_threshold(build(), answers, sha256_of(folder / "run" / "model.safetensors"))


def defaults(folder, build, identity):
    saved_arguments({"model_name_or_path": str(folder / "run"), "do_eval": True})


def caches(folder, build, identity):
    assert all(each.size for each in list_caches(folder / "cache"))
    prune(folder / "cache", 1)


def swept(folder, build, identity):
    points.open_record(folder / "run")
    points._figures(folder / "run")


def merge(folder, build, identity):
    checkpoint = open_checkpoint(folder / "run" / "checkpoint-9")
    if misfit(checkpoint.manifest, RECORDED):  # else it would be merged, which takes a second
        rebuild(checkpoint, folder / "new")


POINT = {"key": "0", "setting": {"freeze_layers": "all"}, "seed": 1, "accuracy": 5.0, "loss": 1.0, "roc_auc": None}
POINT |= {"evaluations": [dict.fromkeys(points.EVALUATION, 1.0)], **dict.fromkeys(points.COUNTS, 1)}
SWEEP = {"majority": 50.0, "points": [{**POINT, **dict.fromkeys(points.SECONDS, 1.0)}]}
CASES = [
    ("run/checkpoint-9/manifest.json", [resume, merge]),
    ("run/checkpoint-9/trainer_state.json", [resume]),
    ("run/run.json", [resume, defaults, swept]),
    ("run/all_results.json", [report]),
    ("run/eval_results.json", [threshold]),
    ("run/trainer_state.json", [report, swept]),
    ("run/sweep.json", [swept]),
    ("cache/*/manifest.json", [caches]),
]


def put(path, text):
    """Put a content into its place; a checkpoint that is damaged but in its shape is sealed as if saved so."""
    path.write_text(text)
    if path.parent.name != "checkpoint-9":
        return
    manifest = json.loads((path.parent / MANIFEST).read_text()) if path.name != MANIFEST else json.loads(text[: 10**5])
    if path.name != MANIFEST:
        seal(path.parent, {key: value for key, value in manifest.items() if key not in ("files", "sha256")})
    elif isinstance(manifest, dict) and manifest.pop("sha256", None):
        path.write_text(json.dumps({**manifest, "sha256": _digest(manifest)}))


@pytest.mark.parametrize(("name", "readers"), CASES, ids=[name for name, _ in CASES])
@settings(QUICK, max_examples=48)
@given(data=st.data())
def test_json_of_another_shape_is_one_line(made, name, readers, data):
    folder, build, identity = made
    (folder / "run" / "sweep.json").write_text(json.dumps(SWEEP))
    (path,) = list(folder.glob(name))[:1]
    original = path.read_bytes()
    manifest = (folder / "run" / "checkpoint-9" / MANIFEST).read_bytes()
    content = json.loads(original)
    place = data.draw(st.sampled_from(list(places(content))))
    other, removed = data.draw(st.sampled_from(OTHERS)), data.draw(st.booleans())
    try:
        put(path, text_of(changed(content, place, other, removed)))
        for reader in readers:
            check(reader, folder, build, identity)
    finally:
        path.write_bytes(original)
        (folder / "run" / "checkpoint-9" / MANIFEST).write_bytes(manifest)
        shutil.rmtree(folder / "new", ignore_errors=True)


def check(reader, *made):
    try:
        reader(*made)
        told = "nothing"
    except (UserError, RunError, Damaged) as error:
        told = str(error)
    assert told
    assert "\n" not in told
