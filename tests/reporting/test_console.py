import pytest

from recipe.checkpoints.rotation import checkpoint_folders
from recipe.command_line.parsing import parse
from recipe.commands.train import train
from recipe.model.freezing import FreezePlan, PlanRow
from recipe.reporting.console import RunReport, checkpoint_bytes, format_finished, format_plan, format_summary

PLAN = FreezePlan(
    [
        PlanRow("embeddings", 100, 0),
        *(PlanRow(f"layer {i}", 50, 50 * (i > 9)) for i in range(12)),
        PlanRow("classifier", 6, 6),
    ],
    10,
)


def test_plan_puts_neighbours_of_a_kind_in_one_row():
    lines = [line.split() for line in format_plan(PLAN).splitlines()]
    assert lines[1] == ["embeddings", "100", "frozen"]
    assert lines[2] == ["layers", "0-9", "500", "frozen"]
    assert lines[3] == ["layers", "10-11", "100", "100"]
    assert lines[4] == ["classifier", "6", "6"]
    assert lines[5] == ["all", "706", "106", "(15.0%", "trained)"]


@pytest.mark.parametrize(
    ("words", "takes"),
    [
        ("--optim=adamw_torch_fused", "; a checkpoint takes 12 MB"),
        ("--optim=adamw_torch --dtype=bfloat16", "; a checkpoint takes 6 MB"),
        ("--optim=sgd", "; a checkpoint takes 4 MB"),
        ("--optim=sgd --optim_args=momentum=0", "; a checkpoint takes 4 MB"),
        ("--optim=sgd --optim_args=momentum=0.9,nesterov=true", "; a checkpoint takes 8 MB"),
        ("--optim=adafactor", ""),  # what it keeps depends on the weights' shapes
    ],
)
def test_a_checkpoints_size_is_told_where_the_optimizers_state_is_known(words, takes):
    plan = FreezePlan([PlanRow("embeddings", 5, 0), PlanRow("layer 0", 10**6, 10**6)], 0)
    size = checkpoint_bytes(plan, parse(words.split()))
    assert format_plan(plan, size).splitlines()[-1] == f"frozen prefix: the embeddings and 0 of 1 layers{takes}"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--dtype=bfloat16", "--frozen_dropout"],
        ["--optim=sgd", "--optim_args=momentum=0.9"],
    ],
)
def test_a_checkpoint_takes_what_was_said(arguments, tmp_path, words):
    given = arguments("--prefix_cache=off", "--eval_strategy=no", *words)
    plan = train(given).plan
    (folder,) = checkpoint_folders(tmp_path / "run")
    found = sum((folder / name).stat().st_size for name in ("trainable.safetensors", "optimizer.pt"))
    assert found == pytest.approx(checkpoint_bytes(plan, given), abs=40_000)  # names and places


def test_where_nothing_is_frozen_nothing_is_said_of_it():
    said = [
        format_summary(RunReport(FreezePlan(rows, None), {}, 0.0), "x") for rows in ([PlanRow("a", 4, 4)], PLAN.rows)
    ]
    assert ["bit-identical" in text for text in said] == [False, True]


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.72, False), (0.69, True)])
def test_summary_says_when_nothing_was_learned(accuracy, verdict):
    metrics = {"eval_accuracy": accuracy, "eval_majority_baseline": 0.69, "epoch": 2.0}
    text = format_summary(RunReport(PLAN, {}, 0.0, metrics), "outputs/x")
    assert ("does NOT beat" in text) is verdict
    assert "after epoch 2 (majority 0.6900)" in text
    assert text.splitlines()[-1] == "next            make eval RUN=outputs/x"


def test_the_next_command_can_be_pasted_where_the_folder_has_spaces():
    next_line = "next            make eval RUN='my drive/x'"
    assert format_summary(RunReport(PLAN, {}, 0.0), "my drive/x").splitlines()[-1] == next_line
    assert format_finished("my drive/x").splitlines()[-1] == next_line


def test_the_best_by_another_metric_is_not_called_the_best_accuracy():
    metrics = {"eval_accuracy": 0.72, "eval_majority_baseline": 0.69, "epoch": 2.0}
    text = format_summary(RunReport(PLAN, {}, 0.0, metrics, best_by="f1"), "outputs/x")
    assert "accuracy        0.7200 after epoch 2, the best by f1 (majority 0.6900)" in text.splitlines()


def test_memory_of_several_processes_is_said_to_be_the_firsts():
    report = RunReport(PLAN, {}, 0.0, peak_bytes=2 * 10**9, processes=2)
    assert "peak memory     2.00 GB, of the first of 2 processes" in format_summary(report, "outputs/x").splitlines()


def test_summary_says_when_nothing_was_evaluated():
    assert "score           not known: no evaluation took place" in format_summary(
        RunReport(PLAN, {}, 0.0), "outputs/x"
    )
