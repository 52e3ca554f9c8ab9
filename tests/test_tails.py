"""Several tails over one frozen prefix, from training to an answer: --num_tails."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from recipe.arguments import FreezeArguments, ModelArguments
from recipe.checkpoints.manifest import open_checkpoint
from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.merge_checkpoint import rebuild
from recipe.commands.predict import predict
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.model.base_model import name_labels, open_base
from recipe.model.freezing import freeze
from recipe.model.loading import add_tails, load_fine_tuned, load_model
from recipe.serving.export import export
from recipe.training.loss import mean_loss
from tests.hub_server import hub
from tests.published import edit_json
from tests.utils import ROOT, history, outcome

EACH_STEP = ("--num_tails=3", "--num_train_epochs=2", "--save_steps=1", "--eval_steps=1", "--save_total_limit=99")


def batch_of(count=4, length=9):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (count, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": (torch.arange(length) > 4).long().expand_as(ids),
    }


def load(folder, num_tails, labels=("0", "1"), layers="0-1", dropout=0.0):
    """A model of so many tails, each moved away from the others."""
    base = open_base(ModelArguments(model_name_or_path=str(folder), dropout=dropout))
    name_labels(base, list(labels), "pairs")
    model = load_model(base)
    freeze(model, FreezeArguments(freeze_layers=layers))
    add_tails(model, num_tails)
    torch.manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.05 * torch.randn_like(value))
    return model


def alone(model, folder, number, layers="0-1"):
    """A model of one tail, with the weights of that tail."""
    labels = [str(name) for name in model.config.id2label.values()]
    single, tail = load(folder, 1, labels, layers), model.other_tails[number - 1] if number else None
    depth = model.prefix_depth
    source = model.bert.encoder.layer[depth:] if tail is None else tail.layer
    single.bert.encoder.layer[depth:].load_state_dict(source.state_dict())
    single.classifier.load_state_dict((model if tail is None else tail).classifier.state_dict())
    return single


def words(run, *more):
    return parse([f"--model_name_or_path={run}", "--use_cpu", *more])


@pytest.mark.parametrize("layers", ["0-1", "all"])
def test_they_answer_by_the_mean_of_their_probabilities(tiny_model, layers):
    model = load(tiny_model, 3, layers=layers).eval()
    singles = [alone(model, tiny_model, number, layers).eval() for number in range(3)]
    expected = torch.stack([each(**batch_of()).logits.softmax(-1) for each in singles])
    assert (expected[0] - expected[1]).abs().max() > 0.01
    torch.testing.assert_close(model(**batch_of()).logits.softmax(-1), expected.mean(0), rtol=0, atol=1e-6)


def test_they_score_by_the_mean_of_their_scores(tiny_model):
    model = load(tiny_model, 2, labels=["score"]).eval()
    expected = torch.stack([alone(model, tiny_model, number).eval()(**batch_of()).logits for number in range(2)])
    torch.testing.assert_close(model(**batch_of()).logits, expected.mean(0), rtol=0, atol=1e-6)


def test_each_learns_as_it_would_alone(tiny_model):
    labels, loss = torch.tensor([0, 1, 1, -100]), mean_loss(0.1, torch.tensor([1.0, 2.0]))
    model = load(tiny_model, 2).train()
    loss(model(**batch_of()), labels).backward()
    own = dict(model.named_parameters())
    for number in range(2):
        single = alone(model, tiny_model, number).train()
        loss(single(**batch_of()), labels).backward()
        for name, value in single.named_parameters():
            if not value.requires_grad:
                assert own[name].grad is None
                continue
            place = name.replace("bert.encoder.layer.2", "layer.0").replace("bert.encoder.layer.3", "layer.1")
            found = own[f"other_tails.0.{place}" if number else name]
            assert torch.equal(found.grad, value.grad / 2), name  # a half is exact


def test_training_calls_what_is_compiled_and_asks_each_tail(tiny_model):
    model = load(tiny_model, 2).train()
    model.compiled_tail = lambda *inputs: 2 * model.run_tail(*inputs)
    found = model(**batch_of(), labels=torch.tensor([0, 1, 1, 0]))
    assert found.tail_logits.shape == (2, 4, 2)
    each = [torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0])) for logits in found.tail_logits]
    torch.testing.assert_close(found.loss, torch.stack(each).mean())
    assert "tail_logits" not in model.eval()(**batch_of())


@pytest.mark.parametrize("cache", ["on", "off"])
def test_a_resumed_run_ends_where_the_whole_one_does(arguments, tmp_path, cache):
    whole, resumed = tmp_path / "whole" / "run", tmp_path / "resumed" / "run"
    steps = [*EACH_STEP, f"--prefix_cache={cache}", "--eval_strategy=steps"]
    train(arguments(*steps, f"--output_dir={whole}"))
    train(arguments(*steps, f"--output_dir={resumed}", f"--resume={whole / 'checkpoint-7'}"))
    assert outcome(tmp_path / "whole")[0] == outcome(tmp_path / "resumed")[0]


def test_a_saved_model_of_several_answers_everywhere_as_its_run_did(arguments, tmp_path, capsys):
    train(
        arguments(
            "--num_tails=3", "--prefix_cache=on", "--num_train_epochs=3", "--learning_rate=3e-3", "--model_card=true"
        )
    )
    run, told = tmp_path / "run", capsys.readouterr().out
    assert "tails 2-3" in told
    assert "of 3 tails, which were trained side by side" in (run / "README.md").read_text("utf-8")
    metrics = evaluate(words(run, "--do_eval"))
    assert metrics["eval_accuracy"] == max(history(run, "eval_accuracy"))
    predict(words(run, "--do_predict", "--eval_split=validation"))
    answers = [json.loads(line) for line in (run / "predictions.jsonl").read_text("utf-8").splitlines()]
    found = export(words(run, "--do_eval"))
    assert found.differences.keys() == {"model.onnx", "model_int8.onnx"}
    assert not (run / "stock").exists()
    assert "stock           not written: 3 tails have no place in a stock BERT\n" in capsys.readouterr().out
    (run / "stock").mkdir()
    export(words(run, "--do_eval"))
    assert f"a stock BERT; {run / 'stock'} is of an earlier model\n" in capsys.readouterr().out
    assert ask_pipeline(str(run), answers[0], tmp_path) == pytest.approx(answers[0]["probability"], abs=1e-5)
    with hub({"models/someone/run": run}) as endpoint:
        online = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        found = ask_pipeline("someone/run", answers[0], tmp_path, **online)
    assert found == pytest.approx(answers[0]["probability"], abs=1e-5)


def ask_pipeline(name, pair, place, **environment):
    """The probability that transformers' pipeline gives a pair's answer, without this recipe."""
    code = (
        "import sys; from transformers import pipeline; import json\n"
        f"classify = pipeline('text-classification', {name!r}, trust_remote_code=True)\n"
        f"pair = {{'text': {pair['sentence1']!r}, 'text_pair': {pair['sentence2']!r}}}\n"
        "print(json.dumps(classify(pair)))\n"
        "assert 'recipe' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": "", "HF_MODULES_CACHE": str(place / "modules"), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True, check=True
    )
    answer = json.loads(done.stdout)
    answer = answer[0] if isinstance(answer, list) else answer
    assert answer["label"] == pair["prediction"]
    return answer["score"]


def test_its_checkpoints_become_whole_models(arguments, tmp_path):
    train(arguments("--num_tails=2", "--num_train_epochs=2", "--load_best_model_at_end=false"))
    rebuild(open_checkpoint(tmp_path / "run" / "checkpoint-18"), tmp_path / "last" / "run")
    last, final = (folder / "run" / "model.safetensors" for folder in (tmp_path / "last", tmp_path))
    assert last.read_bytes() == final.read_bytes()
    pair = AutoTokenizer.from_pretrained(tmp_path / "run")("花呗", "借呗", return_tensors="pt")
    first, again = (
        AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()(**pair).logits
        for folder in (tmp_path / "run", tmp_path / "last" / "run")
    )
    assert torch.equal(first, again)


def test_one_tail_is_what_it_always_was(arguments, tmp_path):
    train(arguments("--num_tails=1"))
    with open(tmp_path / "run" / "config.json", encoding="utf-8") as file:
        assert "num_tails" not in json.load(file)
    assert not any("tail" in name for name in open_checkpoint(tmp_path / "run" / "checkpoint-9").manifest["trainable"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_tails=2", "--freeze_layers=none"], "--num_tails 2: the embeddings are trained"),
        (["--num_tails=2", "--freeze_embeddings=false"], "--num_tails 2: the embeddings are trained"),
        (
            ["--num_tails=2", "--freeze_layers=all", r"--unfreeze_modules=\.bias$"],
            "--num_tails 2: the embeddings are trained, or some of them, ",
        ),
        (["--num_tails=0"], "--num_tails 0: a whole number from 1 to 64 is expected"),
        (["--num_tails=65"], "--num_tails 65: a whole number from 1 to 64 is expected"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, tmp_path, flags, message):
    with pytest.raises(UserError) as caught:
        train(arguments(*flags))
    assert str(caught.value).startswith(message)
    assert not (tmp_path / "run").exists()


def test_a_run_that_several_tails_go_on_from_gives_its_classifier_to_one(arguments, tmp_path, capsys):
    train(arguments())
    again = [f"--model_name_or_path={tmp_path / 'run'}", f"--output_dir={tmp_path / 'next'}", "--max_steps=1"]
    train(arguments(*again, "--num_tails=2", "--learning_rate=1e-9"))
    told = f"classifier: goes on from that of {tmp_path / 'run'}, new in every other tail; labels"
    assert told in capsys.readouterr().out
    before, after = (load_fine_tuned(words(tmp_path / name, "--max_length=32"))[0] for name in ("run", "next"))
    torch.testing.assert_close(after.classifier.weight, before.classifier.weight)
    assert (after.other_tails[0].classifier.weight - before.classifier.weight).abs().max() > 0.01


def test_other_numbers_of_tails_are_refused(arguments, tmp_path):
    train(arguments("--num_tails=2"))
    with pytest.raises(UserError, match=r"--num_tails 3: it was 2 in"):
        train(arguments("--num_tails=3", "--num_train_epochs=2"))
    with pytest.raises(UserError, match=r"--model_name_or_path .*run: a model of 2 tails"):
        train(arguments(f"--model_name_or_path={tmp_path / 'run'}", f"--output_dir={tmp_path / 'next'}"))


@pytest.mark.parametrize("num_tails", [1, 2])
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"num_tails": 0}, "num_tails 0 in its config.json; 1 to 64 are expected"),
        ({"num_tails": 10**9}, "num_tails 1000000000 in its config.json; 1 to 64 are expected"),
        ({"num_tails": "2"}, "num_tails '2' in its config.json; 1 to 64 are expected"),
        ({"num_tails": 3}, "it has no other_tails."),
        ({"frozen_prefix_depth": "two"}, "frozen_prefix_depth 'two' in its config.json; 0 to 4 are expected"),
        ({"frozen_prefix_depth": 5}, "frozen_prefix_depth 5 in its config.json; 0 to 4 are expected"),
        ({"frozen_prefix_depth": -2}, "frozen_prefix_depth -2 in its config.json; 0 to 4 are expected"),
        ({"frozen_prefix_depth": None}, "frozen_prefix_depth None in its config.json; 0 to 4 are expected"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_one_line(tiny_model, tmp_path, num_tails, changed, told):
    load(tiny_model, num_tails).save_pretrained(tmp_path / "run")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "run")
    edit_json(tmp_path / "run" / "config.json", frozen_prefix_depth=2)
    arguments = words(tmp_path / "run", "--do_eval", "--max_length=32")
    load_fine_tuned(arguments)
    edit_json(tmp_path / "run" / "config.json", **changed)
    if num_tails == 1 and changed == {"frozen_prefix_depth": None}:  # a run whose embeddings were trained
        load_fine_tuned(arguments)
        return
    with pytest.raises(UserError) as caught:
        load_fine_tuned(arguments)
    assert told in str(caught.value)


def test_two_ranks_train_what_one_does(tmp_path, tiny_model, pairs_dir):
    """As the single process of twice the batch; up to rounding."""
    flags = [f"--model_name_or_path={tiny_model}", f"--data_dir={pairs_dir}", "--freeze_layers=0-1", "--max_length=32"]
    flags += ["--num_tails=2", "--num_train_epochs=1", "--use_cpu", "--bf16=false", "--dropout=0", "--model_card=false"]
    flags += [f"--prefix_cache_dir={tmp_path / 'cache'}", "--prefix_compute_dtype=float32", "--logging_steps=1"]
    for name, launch, batch in (("one", [], 8), ("two", ["-m", "torch.distributed.run", "--nproc_per_node=2"], 4)):
        command = [sys.executable, *launch, "run_freeze.py", *flags, f"--per_device_train_batch_size={batch}"]
        command.append(f"--output_dir={tmp_path / name}")
        subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    one, two = (history(tmp_path / name, "loss") for name in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-4)
