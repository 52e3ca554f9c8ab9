"""A saved model's answers to a whole split, by way of the prefix cache where its run went that way."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from recipe.arguments import RecipeArguments
from recipe.batches.tokenization import tokenize
from recipe.batches.tokens import SortedPairs, Tokens, read_tokens
from recipe.cache.cached_split import NO_CACHE, STATE_SHAPE, CachedSplit, PrefixState, recorded_state
from recipe.cache.encoding import Encoding
from recipe.cache.finding import find_or_encode
from recipe.cache.key import arithmetic_of, make_key, pair_hashes
from recipe.data.splits import Split, iterate_batches
from recipe.errors import Damaged, RunError
from recipe.evaluation.answers import Answers, answer_pairs, sorted_pairs
from recipe.file_names import RUN
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.progress import say
from recipe.system.json_files import read_json
from recipe.training.build import build_trainer


def answer(
    arguments: RecipeArguments,
    model: BertForPairwiseCLS,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    swapped: bool = False,
) -> Answers:
    """The model's answers to `split`, computed over batches of like length.

    States are taken from the prefix cache where the run that made the model did so, and new ones left there: the same
    bytes, so the same score as the run gave itself.

    Args:
        swapped: ask with the second sentence first.
    """
    trainer = build_trainer(arguments.training, model, tokenizer)  # which may be refused, and costs less than reading
    tokens = read_tokens(iterate_batches(tokenize(split.pairs, tokenizer, arguments.data.max_length, swapped)))
    if not swapped:
        for line in tokens.describe_cut(split.source):
            say(arguments.training, line)
    return answer_pairs(trainer, _from_cache(arguments, model, tokens, split) or sorted_pairs(tokens))


def _from_cache(
    arguments: RecipeArguments, model: BertForPairwiseCLS, tokens: Tokens, split: Split
) -> SortedPairs | None:
    """The pairs with their states as the run had them; None where it had none, or they cannot be kept here."""
    args, state = arguments.training, _state_of_run(Path(model.name_or_path))
    model.prefix_depth = getattr(model.config, "frozen_prefix_depth", None)
    if state.dtype is None or state.kept or not model.prefix_depth or arguments.cache.prefix_cache == "off":
        return None
    key = make_key(model, state.dtype, str(state.compute_dtype), args.device, arithmetic_of(args))
    directory = Path(arguments.cache.prefix_cache_dir)
    try:
        (cache,) = find_or_encode([Encoding(model, tokens, pair_hashes(tokens), key, directory, split.source)], args)
    except RunError as error:
        say(args, f"note: {error}; this score is computed without one, so that its last digits may differ")
        return None
    return CachedSplit(cache, tokens, tokens.lengths.int(), key).sorted_pairs()


def _state_of_run(folder: Path) -> PrefixState:
    try:
        said = read_json(folder / RUN, {"prefix": STATE_SHAPE})["prefix"]
    except Damaged:  # of an earlier release, or no run at all
        return NO_CACHE
    return recorded_state(said)
