import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save_file
from transformers import BertConfig

from recipe.checkpoints.identity import ARITHMETIC, default_of
from recipe.checkpoints.manifest import open_checkpoint, seal
from recipe.checkpoints.rotation import checkpoint_folders
from recipe.command_line.parsing import parse
from recipe.commands.predict import PREDICTIONS, predict
from recipe.commands.train import train
from recipe.errors import UserError
from tests.utils import make_pairs, outcome, write_jsonl

EACH_STEP = ("--num_train_epochs=2", "--save_strategy=steps", "--save_steps=1", "--save_total_limit=99")
EACH_STEP += ("--eval_strategy=steps", "--eval_steps=1")


def weights(folder):
    return outcome(folder)[0]


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["--prefix_cache=on"], 18),
        (["--prefix_cache=off", "--per_device_train_batch_size=4", "--gradient_accumulation_steps=3"], 12),
        (["--prefix_cache=off", "--no_streaming", "--early_stopping_patience=4", "--learning_rate=0.01"], None),
    ],
)
def test_a_run_resumed_at_any_step_ends_where_the_whole_one_does(arguments, tmp_path, words, last):
    words = [*EACH_STEP, "--per_device_train_batch_size=8", *words]
    train(arguments(*words, f"--output_dir={tmp_path / 'whole' / 'run'}"))
    checkpoints = checkpoint_folders(tmp_path / "whole" / "run")
    steps = len(checkpoints)
    assert steps == last or (last is None and 4 < steps < 18)  # patience ended it early
    for checkpoint in checkpoints:
        folder = tmp_path / "resumed" / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for step in range(1, int(checkpoint.name.split("-")[1]) + 1):
            name = f"checkpoint-{step}"
            shutil.copytree(checkpoint.parent / name, folder / name, copy_function=os.link)
        report = train(arguments(*words, f"--output_dir={folder}"))
        assert outcome(tmp_path / "resumed") == outcome(tmp_path / "whole"), checkpoint.name
        assert 0 <= report.eval_seconds <= report.train_seconds  # its own seconds, not those before the stop


@pytest.mark.parametrize("cache", ["on", "off"])
def test_two_workers_resume_in_mid_epoch(arguments, tmp_path, cache):
    words = [*EACH_STEP, "--dataloader_num_workers=2", f"--prefix_cache={cache}"]
    train(arguments(*words, f"--output_dir={tmp_path / 'whole' / 'run'}"))
    train(
        arguments(
            *words,
            f"--output_dir={tmp_path / 'resumed' / 'run'}",
            f"--resume={tmp_path / 'whole' / 'run' / 'checkpoint-13'}",
        )
    )
    assert weights(tmp_path / "resumed") == weights(tmp_path / "whole")


def test_the_same_command_twice_gives_the_same_bytes(arguments, tmp_path):
    for name in ("one", "two"):
        train(
            arguments(
                "--prefix_cache=on",
                f"--output_dir={tmp_path / name / 'run'}",
                f"--prefix_cache_dir={tmp_path / name / 'cache'}",
            )
        )
        predict(parse(["--do_predict", f"--model_name_or_path={tmp_path / name / 'run'}", "--use_cpu"]))
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    one, two = ((tmp_path / name / "run" / PREDICTIONS).read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.fixture(scope="module")
def begun_once(tmp_path_factory):
    return tmp_path_factory.mktemp("begun") / "run"


@pytest.fixture
def begun(arguments, begun_once, tmp_path):
    """A run that stopped after its first epoch: (folder, a function that runs the same command with more words)."""
    words = ["--num_train_epochs=2", "--prefix_cache=off"]
    if not begun_once.exists():
        train(arguments(*words, f"--output_dir={begun_once}"))
    folder = tmp_path / "run"
    shutil.copytree(begun_once / "checkpoint-9", folder / "checkpoint-9")
    return folder, lambda *more: train(arguments(*words, *more))


def other_model(tiny_model, folder):
    shutil.copytree(tiny_model, folder)
    values = load_file(folder / "model.safetensors")
    name = next(name for name in values if name.endswith("layer.0.output.dense.weight"))
    values[name][0, 0] += 1
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


REFUSED = [
    ("--freeze_layers=0-2", "--freeze_layers 0-2: it was 0-1 in "),
    ("--freeze_embeddings=false", "--freeze_embeddings False: it was (not given) in "),
    ("--freeze_modules=layer.2.output", "--freeze_modules layer.2.output: it was (not given) in "),
    ("--frozen_dropout=true", "--frozen_dropout True: it was False in "),
    ("--seed=7", "--seed 7: it was 42 in "),
    ("--data_seed=7", "--data_seed 7: it was (not given) in "),
    ("--per_device_train_batch_size=4", "--per_device_train_batch_size 4: it was 8 in "),
    ("--gradient_accumulation_steps=2", "--gradient_accumulation_steps 2: it was 1 in "),
    ("--max_length=24", "--max_length 24: it was 32 in "),
    ("--shuffle_buffer_size=9", "--shuffle_buffer_size 9: it was 10000 in "),
    ("--max_train_samples=60", "--max_train_samples 60: it was (not given) in "),
    ("--dropout=0.3", "--dropout 0.3: it was (not given) in "),
    ("--dtype=bfloat16", "--dtype bfloat16: it was float32 in "),
    ("--attn_implementation=eager", "--attn_implementation eager: it was sdpa in "),
    ("--weight_decay=0.1", "--weight_decay 0.1: it was 0.0 in "),
    ("--adam_beta2=0.9", "--adam_beta2 0.9: it was 0.999 in "),
    ("--optim=sgd", "--optim "),
    ("--max_grad_norm=5", "--max_grad_norm 5.0: it was 1.0 in "),
    ("--label_smoothing_factor=0.1", "--label_smoothing_factor 0.1: it was 0.0 in "),
    ("--early_stopping_patience=3", "--early_stopping_patience 3: it was (not given) in "),
    ("--metric_for_best_model=loss", "--metric_for_best_model loss: it was accuracy in "),
    ("--prefix_cache=on", "prefix cache in float16, computed in "),
    ("--num_train_epochs=1", "--num_train_epochs 1.0: it was 2.0 in "),
]


@pytest.mark.parametrize(("word", "told"), REFUSED)
def test_what_a_resume_must_not_change_is_refused(begun, word, told):
    folder, again = begun
    before = outcome_files(folder)
    with pytest.raises(UserError) as error:
        again(word)
    assert str(error.value).startswith(told)
    assert "--resume never" in str(error.value)
    assert str(folder / "checkpoint-9") in str(error.value)
    assert outcome_files(folder) == before


def outcome_files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", ["weights", "train", "dev", "labels", "tokenizer"])
def test_other_inputs_under_the_same_names_are_refused(begun, tmp_path, tiny_model, pairs_dir, what):
    _, again = begun
    data, model = tmp_path / "data", tmp_path / "model"
    shutil.copytree(pairs_dir, data)
    shutil.copytree(tiny_model, model)
    more = []
    if what == "weights":
        shutil.rmtree(model)
        other_model(tiny_model, model)
    elif what == "tokenizer":
        path = model / "tokenizer.json"
        content = json.loads(path.read_text())
        vocabulary = content["model"]["vocab"]
        vocabulary["花"], vocabulary["呗"] = vocabulary["呗"], vocabulary["花"]
        path.write_text(json.dumps(content))
    elif what == "labels":
        more = ["--label_names", "1", "0"]
    else:
        rows = make_pairs(70, 1) if what == "train" else make_pairs(30, 2)
        rows[5]["sentence1"] += "吗"
        write_jsonl(data / f"{what}.json", rows)
    told = {"weights": "the weights of", "labels": "labels 1 0: they were 0 1", "tokenizer": "its tokenizer"}
    expected = told.get(what, f"the {'validation' if what == 'dev' else what} data")
    with pytest.raises(UserError, match=expected):
        again(f"--data_dir={data}", f"--model_name_or_path={model}", *more)


def changed_model(tiny_model, folder, file, **values):
    shutil.copytree(tiny_model, folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **values}))
    return folder


@pytest.mark.parametrize(
    ("file", "name", "value", "was"),
    [
        ("config.json", "hidden_act", "relu", "gelu"),
        ("config.json", "num_attention_heads", 2, 4),
        ("config.json", "layer_norm_eps", 1e-5, 1e-12),
        ("config.json", "hidden_dropout_prob", 0.3, 0.1),
        ("config.json", "attention_probs_dropout_prob", 0.3, 0.1),
        ("tokenizer_config.json", "truncation_side", "left", "right"),
    ],
)
def test_a_base_of_the_same_weights_that_computes_otherwise_is_refused(
    begun, tmp_path, tiny_model, file, name, value, was
):
    _, again = begun
    model = changed_model(tiny_model, tmp_path / "model", file, **{name: value})
    what = "its config.json" if file == "config.json" else "its tokenizer"
    with pytest.raises(UserError, match=rf"^{what}: {name} {value}: it was {was} in .*checkpoint-9; "):
        again(f"--model_name_or_path={model}")


def test_all_that_a_bert_computes_with_is_in_the_identity():
    """Fails where upstream adds a field to a BERT's configuration: is it arithmetic, or one of those that are not?"""
    no_arithmetic = {"transformers_version", "model_type", "initializer_range", "use_cache", "add_cross_attention"}
    no_arithmetic |= {"bos_token_id", "eos_token_id", "tie_word_embeddings"}
    assert set(BertConfig().to_diff_dict()) == set(ARITHMETIC) | no_arithmetic


@pytest.mark.parametrize(
    "words",
    [
        ["--logging_steps=3", "--save_total_limit=5", "--per_device_eval_batch_size=5"],
        ["--no_streaming", "--dataloader_num_workers=1"],
        ["--freeze_layers=0,1"],  # the same in other words
    ],
)
def test_what_only_moves_the_work_about_is_free(begun, begun_once, tmp_path, words):
    _, again = begun
    again(*words)
    assert weights(tmp_path) == weights(begun_once.parent)


def test_a_checkpoint_from_before_a_flag_goes_on_at_that_flags_default(begun):
    folder, again = begun
    path = folder / "checkpoint-9"
    manifest = open_checkpoint(path).manifest
    content = {key: value for key, value in manifest.items() if key not in ("files", "sha256")}
    given = content["identity"]["arguments"]
    for name in ("data.csv_quoting", "training.label_smoothing_factor"):
        assert given.pop(name) == default_of(name)
    given["training.a_flag_that_is_gone"] = 7
    seal(path, content)
    with pytest.raises(UserError, match=r"--label_smoothing_factor 0.1: it was 0.0 in "):
        again("--label_smoothing_factor=0.1")
    again()


def test_moved_data_and_model_are_the_same_data_and_model(begun, begun_once, tmp_path, tiny_model, pairs_dir):
    _, again = begun
    shutil.copytree(pairs_dir, tmp_path / "moved data")
    shutil.copytree(tiny_model, tmp_path / "moved model")
    again(f"--data_dir={tmp_path / 'moved data'}", f"--model_name_or_path={tmp_path / 'moved model'}")
    assert weights(tmp_path) == weights(begun_once.parent)


def test_saving_cadence_is_the_new_ones(begun):
    folder, again = begun
    again("--save_strategy=steps", "--save_steps=4", "--eval_strategy=steps", "--eval_steps=4", "--save_total_limit=9")
    assert [path.name for path in checkpoint_folders(folder)] == [f"checkpoint-{step}" for step in (18, 16, 12, 9)]


@pytest.mark.parametrize(
    ("word", "rate"),
    [
        ("--learning_rate=0.0004", 0.0004 * 9 / 18),
        ("--num_train_epochs=3", 0.0001 * 18 / 27),
        ("--lr_scheduler_type=constant", 0.0001),
    ],
)
def test_rate_epochs_and_schedule_are_honoured_from_the_next_step_on(begun, capsys, word, rate):
    folder, again = begun
    again(word, "--logging_steps=1")
    name, value = word[2:].split("=")
    assert f"note: --{name} {value}" in capsys.readouterr().out.replace("3.0", "3")
    state = json.loads((checkpoint_folders(folder)[0] / "trainer_state.json").read_text())
    first = next(entry for entry in state["log_history"] if entry["step"] == 10)
    assert first["learning_rate"] == pytest.approx(rate)


def test_a_finished_run_says_so_and_can_be_made_longer(arguments, tmp_path, capsys):
    train(arguments())
    before = outcome_files(tmp_path / "run")
    capsys.readouterr()
    assert train(arguments()) is None
    assert "this run has finished with accuracy 0." in capsys.readouterr().out
    assert outcome_files(tmp_path / "run") == before
    with pytest.raises(UserError, match=r"--learning_rate 0.0003: it was 0.0001 in .*which is at step 9 of 9 already"):
        train(arguments("--learning_rate=0.0003"))
    with pytest.raises(UserError, match=r"--seed 1: it was 42 in .*run.json"):
        train(arguments("--seed=1"))
    assert train(arguments("--num_train_epochs=2")).metrics["epoch"] in (1, 2)
    assert "going on from step 9" in capsys.readouterr().out


def test_a_finished_run_whose_model_is_damaged_is_not_finished(arguments, tmp_path):
    train(arguments())
    expected = outcome(tmp_path)
    (tmp_path / "run" / "model.safetensors").write_bytes(b"torn")
    assert train(arguments()) is not None
    assert outcome(tmp_path) == expected


def test_never_starts_over(arguments, tmp_path, capsys):
    train(arguments())
    expected = outcome(tmp_path)
    capsys.readouterr()
    train(arguments("--resume=never"))
    assert "going on" not in capsys.readouterr().out
    assert outcome(tmp_path) == expected
    train(arguments("--resume=never", "--seed=1"))
    assert weights(tmp_path) != expected[0]


@pytest.mark.parametrize("name", ["nothing-there", "torn"])
def test_a_path_to_no_good_checkpoint_is_refused(arguments, tmp_path, name):
    (tmp_path / "torn").mkdir()
    with pytest.raises(UserError, match=rf"--resume {tmp_path / name}: .*manifest.json: not there"):
        train(arguments(f"--resume={tmp_path / name}"))
    assert not (tmp_path / "run").exists()


def test_a_path_from_elsewhere_needs_a_folder_without_checkpoints(arguments, tmp_path):
    train(arguments(f"--output_dir={tmp_path / 'one'}"))
    train(arguments(f"--output_dir={tmp_path / 'two'}"))
    with pytest.raises(UserError, match="has checkpoints of its own"):
        train(arguments(f"--output_dir={tmp_path / 'two'}", f"--resume={tmp_path / 'one' / 'checkpoint-9'}"))


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_another_programs_checkpoints_are_left_alone(arguments, tmp_path, resume):
    stock = tmp_path / "run" / "checkpoint-5"
    stock.mkdir(parents=True)
    (stock / "model.safetensors").write_bytes(b"someone's")
    (stock / "optimizer.pt").touch()
    with pytest.raises(UserError, match=r"checkpoint-5/model.safetensors is another program's; name another --output"):
        train(arguments(f"--resume={resume}"))
    assert (stock / "model.safetensors").read_bytes() == b"someone's"
