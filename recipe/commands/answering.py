"""A saved model's answers: to a whole split, by way of the prefix cache, or line by line, however many there are."""

from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from recipe.arguments import RecipeArguments
from recipe.batches.tokenization import encode_batch, tokenize
from recipe.batches.tokens import SortedPairs, Tokens, read_tokens
from recipe.cache.cached_split import NO_CACHE, STATE_SHAPE, CachedSplit, PrefixState, recorded_state
from recipe.cache.encoding import Encoding
from recipe.cache.finding import find_or_encode
from recipe.cache.key import arithmetic_of, make_key, pair_hashes
from recipe.command_line.saved_run import record_of
from recipe.data.splits import Split, iterate_batches
from recipe.errors import Damaged, RunError
from recipe.evaluation.answers import Answers, answer_pairs
from recipe.evaluation.predictions import prediction_lines
from recipe.internals import forget_loaders
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.progress import say
from recipe.system.json_files import read_json
from recipe.training.build import build_trainer
from recipe.training.trainer import FreezeTrainer

BATCHES_AT_ONCE = 64  # that are sorted by length together and answered: what a kill costs at most


def answer(
    arguments: RecipeArguments,
    model: BertForPairwiseCLS,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    from_cache: bool = False,
    swapped: bool = False,
) -> Answers:
    """The model's answers to `split`, computed over batches of like length.

    Args:
        from_cache: take states from the prefix cache, where the run that made the model did, and leave new ones there:
            the same bytes, so the same score as the run gave itself.
        swapped: ask with the second sentence first.
    """
    trainer = build_trainer(arguments.training, model, tokenizer)  # which may be refused, and costs less than reading
    tokens = read_tokens(iterate_batches(tokenize(split.pairs, tokenizer, arguments.data.max_length, swapped)))
    if not swapped:
        for line in tokens.describe_cut(split):
            say(arguments.training, line)
    source = split.source + ", sentences swapped" * swapped
    cached = _from_cache(arguments, model, tokens, source) if from_cache else None
    answers = answer_pairs(trainer, cached or tokens.sorted_pairs())
    return answers._replace(stored=cached is not None)


def _from_cache(
    arguments: RecipeArguments, model: BertForPairwiseCLS, tokens: Tokens, source: str
) -> SortedPairs | None:
    """The pairs with their states as the run had them; None where it had none, or they cannot be kept here."""
    args, state = arguments.training, _state_of_run(model.name_or_path)
    model.prefix_depth = getattr(model.config, "frozen_prefix_depth", None)
    if state.dtype is None or state.kept or not model.prefix_depth or arguments.cache.prefix_cache == "off":
        return None
    key = make_key(model, state.dtype, str(state.compute_dtype), args.device, arithmetic_of(args))
    directory = Path(arguments.cache.prefix_cache_dir)
    try:
        (cache,) = find_or_encode([Encoding(model, tokens, pair_hashes(tokens), key, directory, source)], args)
    except RunError as error:
        say(args, f"note: {error}; this score is computed without one, so that its last digits may differ")
        return None
    return CachedSplit(cache, tokens, tokens.lengths.int(), key).sorted_pairs()


def _state_of_run(name: str) -> PrefixState:
    try:
        said = read_json(record_of(name), {"prefix": STATE_SHAPE})["prefix"]
    except Damaged:  # of an earlier release, or no run at all
        return NO_CACHE
    return recorded_state(said)


def answer_lines(
    trainer: FreezeTrainer, split: Split, max_length: int, done: int = 0
) -> Iterator[tuple[list[str], int]]:
    """predictions.jsonl's lines for the rows behind the first `done`, BATCHES_AT_ONCE at a time, and how many were cut.

    Where one lot ends and the next begins follows from the row's number alone, so that a row has the same company, and
    to the last bit the same answer, wherever a call begins.
    """
    names = list(trainer.model.config.id2label.values())
    for pairs in iterate_batches(split.pairs.skip(done), rows_at_once(trainer)):
        tokens = read_tokens(iter([encode_batch(pairs, trainer.processing_class, max_length)]))
        answers = answer_pairs(trainer, tokens.sorted_pairs())
        forget_loaders(trainer.accelerator)
        yield list(prediction_lines(pairs, answers, names)), tokens.cut


def rows_at_once(trainer: FreezeTrainer) -> int:
    """How many rows are answered at a time."""
    return BATCHES_AT_ONCE * trainer.args.eval_batch_size * trainer.args.world_size
