import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from recipe.command_line.parsing import parse
from recipe.commands.train import train
from recipe.data.opening import require_split
from recipe.data.pairs import UNLABELLED
from recipe.data.splits import iterate
from recipe.errors import RunError, UserError
from recipe.training.loss import LossWatch, class_weights, describe_weights, mean_loss


def test_a_rank_without_an_example_adds_nothing():
    logits = torch.randn(1, 2, requires_grad=True)
    for items in (None, 0, torch.tensor(0)):
        loss = mean_loss(0.1)({"logits": logits}, torch.tensor([UNLABELLED]), items)
        loss.backward()
        assert loss.item() == 0
        assert not logits.grad.any()


def test_a_part_of_a_step_is_its_share_of_the_mean():
    logits, labels = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 1, 0])
    loss = mean_loss(0.0)
    parts = sum(loss({"logits": logits[part]}, labels[part], 6) for part in (slice(0, 4), slice(4, 6)))
    torch.testing.assert_close(parts, torch.nn.functional.cross_entropy(logits, labels))
    torch.testing.assert_close(loss({"logits": logits}, labels), torch.nn.functional.cross_entropy(logits, labels))


def test_a_step_of_scores_is_the_mean_squared_error_however_it_is_cut():
    logits, labels = torch.randn(7, 1), torch.tensor([0.5, 5.0, -1.0, 3.25, 0.0, 2.0, UNLABELLED])
    expected = torch.nn.functional.mse_loss(logits[:6, 0], labels[:6])
    loss = mean_loss(0.0)
    torch.testing.assert_close(loss({"logits": logits}, labels), expected)
    for cut in (1, 2, 5, 6):
        parts = [slice(0, cut), slice(cut, 7)]
        torch.testing.assert_close(sum(loss({"logits": logits[part]}, labels[part], 6) for part in parts), expected)
    alone = torch.randn(1, 1, requires_grad=True)
    loss({"logits": alone}, torch.tensor([float(UNLABELLED)]), 0).backward()
    assert not alone.grad.any()


def test_a_weighted_step_is_the_same_however_it_is_cut():
    """Torch's own mean divides by each part's sum of weights, so that the parts of a step would not add up."""
    logits, labels, weights = torch.randn(6, 2), torch.tensor([0, 1, 1, 0, 0, 0]), torch.tensor([0.5, 3.0])
    loss = mean_loss(0.0, weights)
    whole = loss({"logits": logits}, labels, 6)
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(whole, (weights[labels] * each).mean())
    for cut in (1, 2, 5):
        parts = [slice(0, cut), slice(cut, 6)]
        torch.testing.assert_close(sum(loss({"logits": logits[part]}, labels[part], 6) for part in parts), whole)


def test_balanced_weights_are_scikit_learns(pairs_dir):
    split = require_split(parse([f"--data_dir={pairs_dir}"]).data, "train")
    labels = np.array([pair["label"] for pair in iterate(split.pairs)])
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
    weights = class_weights("balanced", split)
    assert weights.tolist() == pytest.approx(expected)
    assert weights[labels].mean().item() == pytest.approx(1)
    assert describe_weights(torch.tensor([0.5, 2.0]), ["0", "\x1b[31m"]) == r"class weights: 0 0.5, \x1b[31m 2"
    assert class_weights(None, split) is None


@pytest.mark.parametrize("text", ["even", "1", "1,2,3", "-1,2", "nan,1", "inf,1", "1e39,1", "0,0", "1,,"])
def test_weights_that_fit_no_labels_are_refused_before_anything_is_encoded(arguments, tmp_path, text):
    with pytest.raises(
        UserError, match=r"--class_weights .*: 'balanced', or a number from 0 to 1,000,000 for each of the"
    ):
        train(arguments(f"--class_weights={text}"))
    assert not (tmp_path / "cache").exists()


def test_a_label_that_does_not_occur_has_no_balance(pairs_dir, tmp_path):
    rows = [line for line in (pairs_dir / "train.json").read_text().splitlines(True) if '"label": "0"' in line]
    (tmp_path / "train.json").write_text("".join(rows))
    split = require_split(parse([f"--train_file={tmp_path / 'train.json'}"]).data, "train")
    with pytest.raises(UserError, match=r"--class_weights balanced: .*train.json has no pair of label 1; give numbers"):
        class_weights("balanced", split)


def test_weights_change_what_is_trained_and_even_ones_do_not(arguments):
    found = {}
    for words in ([], ["--class_weights=1,1"], ["--class_weights=1,5"]):
        report = train(arguments(*words, "--resume=never"))
        found["".join(words)] = (report.train_metrics["train_loss"], report.metrics["eval_loss"], report.model_sha256)
    plain, even, uneven = found.values()
    assert plain == even
    assert uneven[0] > plain[0]
    assert uneven[2] != plain[2]


def test_weights_are_part_of_what_a_resume_compares(arguments):
    train(arguments("--class_weights=1,5"))
    with pytest.raises(UserError, match="--class_weights"):
        train(arguments("--class_weights=1,6"))


def watched_steps(folder, losses, optimizer=None, **options):
    """Take a step for each loss; the weight as it was before each, and what stopped the run."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True) if optimizer is None else optimizer([weight], lr=0.1)
    watch, before = LossWatch(optimizer, folder, **options), []
    try:
        for step, value in enumerate(losses, start=1):
            before.append(weight.detach().clone())
            weight.grad = torch.full((3,), value)
            watch.add(torch.tensor(value), step)
            optimizer.step()
        watch.look()
    except RunError as error:
        return before, weight.detach(), str(error)
    return before, weight.detach(), None


def test_a_gpu_is_looked_at_every_few_steps_and_no_weight_changes_meanwhile(tmp_path):
    before, weight, told = watched_steps(tmp_path, [1.0, 2.0, math.inf, 1.0, 1.0, 1.0], every=5)
    assert len(before) == 5
    assert told.startswith("the loss is inf at step 3 (learning rate 0.1); stopped before the weights changed;")
    assert torch.equal(weight, before[2])
    assert not torch.equal(before[2], before[1])


def test_looking_seldom_changes_no_byte(tmp_path):
    losses = [1.0, -2.0, 0.5, 3.0, -1.0]
    assert torch.equal(*(watched_steps(tmp_path, losses, every=every)[1] for every in (1, 3)))


def test_what_is_left_at_the_end_is_looked_at(tmp_path):
    before, weight, told = watched_steps(tmp_path, [1.0, math.nan, 1.0], every=8)
    assert told.startswith("the loss is nan at step 2 ")
    assert torch.equal(weight, before[1])


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_that_cannot_be_told_is_stopped_at_once(tmp_path, optimizer):
    before, weight, told = watched_steps(tmp_path, [1.0, math.nan, 1.0], optimizer, every=8)
    assert told.startswith("the loss is nan at step 2 ")
    assert len(before) == 2
    assert torch.equal(weight, before[1])


def test_another_ranks_loss_stops_this_one_too(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda bad, op: (calls.append(op), bad.fill_(float(len(calls) == 2)))
    )
    before, weight, told = watched_steps(tmp_path, [1.0, 2.0, 3.0, 4.0], every=4, ranks=2)
    assert told.startswith("the loss is nan at step 2 ")
    assert torch.equal(weight, before[1])
    assert set(calls) == {torch.distributed.ReduceOp.MAX}
