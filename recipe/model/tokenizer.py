"""The tokenizer of a checkpoint, in whatever form it is published, checked against its model."""

from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerBase

from recipe.errors import UserError
from recipe.model.base_model import Base, reading
from recipe.system.hub import download

# What a tokenizer is made from, whichever of them are there.
FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.txt", "added_tokens.json", "special_tokens_map.json")
SMALL = 0.9  # of the embedding's rows: published vocabularies are padded to a round number, by 1 % at most


def load_tokenizer(base: Base, max_length: int | None = None) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, the one that stock AutoTokenizer finds; no code that lies beside it is run.

    AutoTokenizer finds the class by the configuration where tokenizer_config.json names none, as that of
    bert-base-chinese; it knows BertConfig, not this recipe's own.

    Args:
        max_length: tokens that a run reads of a pair, to be saved with it: at `truncation=True` other libraries cut
            there then. Default: what the checkpoint says.

    Raises:
        UserError: it has none, or one that does not fit the model.
    """
    config = BertConfig(tokenizer_class=base.tokenizer_class, name_or_path=base.name)
    options = {"trust_remote_code": False, "local_files_only": True}
    for name in FILES if base.on_hub else ():
        download("--model_name_or_path", base.name, name)
    with reading(base.name, "its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(base.name, config=config, **options)
        _check_tokenizer(base, tokenizer)  # a vocabulary of something else fails only where it is used
    if max_length is not None:
        tokenizer.model_max_length = max_length
    return tokenizer


def _check_tokenizer(base: Base, tokenizer: PreTrainedTokenizerBase) -> None:
    if not tokenizer.is_fast:
        raise UserError(f"{base.flag}: its tokenizer is a {type(tokenizer).__name__}; BERT's is expected")
    rows, types = base.config.vocab_size, base.config.type_vocab_size
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(f"{base.flag}: its tokenizer has no vocabulary; vocab.txt or tokenizer.json is expected")
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise UserError(
            f"{base.flag}: its tokenizer has ids up to {highest:,}, its embedding {rows:,} rows; the vocabulary that "
            "the weights were trained with is expected"
        )
    # one that the vocabulary lacks is added behind it, where a padded embedding may have a row that was never trained
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    if not {tokenizer.cls_token, tokenizer.sep_token, tokenizer.pad_token} <= vocabulary.keys():
        raise UserError(f"{base.flag}: its vocabulary lacks [CLS], [SEP] or [PAD]; BERT's is expected")
    # a call of `tokenizer` would change the padding that it is saved with
    pair = tokenizer.backend_tokenizer.encode("一", "二")
    if pair.ids[0] != tokenizer.cls_token_id or pair.ids.count(tokenizer.sep_token_id) < 2:
        raise UserError(f"{base.flag}: its tokenizer does not make [CLS] A [SEP] B [SEP] of a pair")
    if max(pair.type_ids) >= types:
        raise UserError(
            f"{base.flag}: type_vocab_size {types} in its config.json; 2 is expected, one for each sentence"
        )


def vocabulary_note(base: Base, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What is said of a vocabulary much smaller than the embedding, which may be another model's; None for others."""
    rows = base.config.vocab_size
    if len(tokenizer) >= SMALL * rows:
        return None
    return f"the tokenizer has {len(tokenizer):,} tokens, the embedding {rows:,} rows: is it this model's?"
