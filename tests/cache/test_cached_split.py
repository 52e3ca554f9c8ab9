import pytest
import torch

from recipe.arguments import FreezeArguments
from recipe.cache.cached_split import NO_CACHE, PrefixState, recorded_state
from recipe.errors import Damaged
from recipe.model.freezing import freeze


def states_of(model, tokens, index):
    example = tokens.example(index)
    ids, types = (torch.tensor([example[name]]) for name in ("input_ids", "token_type_ids"))
    return model.run_prefix(ids, None, types)[0]


def test_states_are_the_prefixs_output(model, encoded):
    cache, tokens, _ = encoded()
    for index in (0, 33, 69):
        states, mask = cache.gather([index])
        assert mask is None
        torch.testing.assert_close(states[0], states_of(model, tokens, index), rtol=0, atol=1e-6)


def test_gather_pads_with_a_mask(model, encoded):
    cache, tokens, _ = encoded()
    states, mask = cache.gather([5, 1, 40])
    assert mask.sum(1).tolist() == tokens.lengths[[5, 1, 40]].tolist()
    for row, index in enumerate((5, 1, 40)):
        length = int(tokens.lengths[index])
        torch.testing.assert_close(states[row, :length], states_of(model, tokens, index), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "compute", "bound"),
    [("float16", "float32", 0.003), ("bfloat16", "float32", 0.02), ("float16", "bfloat16", 0.1)],
)
def test_sixteen_bits_keep_the_logits_within_a_bound(model, encoded, dtype, compute, bound):
    cache, tokens, _ = encoded(dtype, compute)
    assert cache.states.dtype == getattr(torch, dtype)
    states, mask = cache.gather(list(range(70)))
    exact = torch.cat([model(prefix_states=states_of(model, tokens, index)[None]).logits for index in range(70)])
    torch.testing.assert_close(model(prefix_states=states, attention_mask=mask).logits, exact, rtol=0, atol=bound)


def test_a_full_prefix_keeps_cls_alone(model, encoded):
    freeze(model, FreezeArguments(freeze_layers="all"))
    cache, tokens, _ = encoded()
    assert cache.states.shape == (70, 32)
    assert cache.lengths.tolist() == [1] * 70
    torch.testing.assert_close(cache.gather([7])[0][0], states_of(model, tokens, 7), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("off", NO_CACHE),
        ("in float16, computed in bfloat16", PrefixState("float16", "bfloat16")),
        (
            "in float32, computed in float32, 1,234 of 5,678 pairs, tail compiled",
            PrefixState("float32", "float32", 1234, 5678, True),
        ),
    ],
)
def test_a_state_is_read_from_what_it_and_earlier_releases_record(said, state):
    assert recorded_state(said) == recorded_state(state._asdict()) == state
    assert str(state) == said


def test_a_state_of_another_form_is_damaged():
    with pytest.raises(Damaged, match="'on'; an object is expected"):
        recorded_state("on")
