"""What a checkpoint is before its weights are read: a folder or a name on the Hub, its kind, its configuration."""

import contextlib
import pickle
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from transformers import BertConfig
from transformers.activations import ACT2FN

from recipe.arguments import MOST_TAILS, ModelArguments
from recipe.errors import UserError
from recipe.file_names import WEIGHTS
from recipe.model.modeling import BertPairwiseCLSConfig
from recipe.model.weights import FORMS
from recipe.system.hub import download, has_copy, is_repository, require_hub

OURS = BertPairwiseCLSConfig.model_type
KINDS = ("bert", "ernie", "electra", OURS)
# The keys of a published configuration that the encoder is made of. Whatever else is there belongs to another use of
# the model (is_decoder, output_attentions, problem_type) and would change answers or fail the save.
SHAPE = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
ENCODER = (
    *SHAPE,
    *("hidden_act", "layer_norm_eps", "initializer_range", "max_position_embeddings", "type_vocab_size"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "pad_token_id"),
)
OF_A_RUN = ("id2label", "label2id", "problem_type", "frozen_prefix_depth", "num_tails")
OWNERS = {"bert-": "google-bert", "chinese-": "hfl", "rbt": "hfl", "ernie-": "nghuyong", "bge-": "BAAI"}
WORKING = "google-bert/bert-base-chinese, hfl/chinese-roberta-wwm-ext or nghuyong/ernie-3.0-base-zh"
# Files that a model is loaded from, one of each.
PARTS = (("config.json",), FORMS, ("vocab.txt", "tokenizer.json"))
MOST = 1000  # layers, or heads: a layer takes memory before it is known whether there are weights for it
POINTER = b"version https://git-lfs"


class Base(NamedTuple):
    """A checkpoint whose configuration has been read.

    Attributes:
        kind: one of KINDS.
        config: the encoder's, under this recipe's model type, with the labels of a run of this recipe.
        tokenizer_class: the one that the configuration names, if any.
        on_hub: whether the Hub is to be asked for its files, before each is read from the cache.
    """

    args: ModelArguments
    kind: str
    config: BertPairwiseCLSConfig
    tokenizer_class: str | None
    on_hub: bool

    @property
    def name(self) -> str:
        """The folder or the name on the Hub."""
        return self.args.name

    @property
    def flag(self) -> str:
        """What an error begins with."""
        return f"--model_name_or_path {self.name}"


def open_base(args: ModelArguments) -> Base:
    """The checkpoint that the arguments name.

    Raises:
        UserError: no such folder or repository, the Hub is out of reach, or the model is no BERT.
    """
    name = args.name
    on_hub = not _is_local(name) and require_hub("--model_name_or_path", name, "model", has_copy(name, PARTS))
    with reading(name, "config.json"):
        if on_hub and download("--model_name_or_path", name, "config.json") is None:
            raise UserError(f"--model_name_or_path {name}: no config.json on the Hub; a BERT checkpoint is expected")
        values, _ = BertConfig.get_config_dict(name, local_files_only=True)
        kind = _kind(name, values)
        kept = ENCODER + OF_A_RUN if kind == OURS else ENCODER
        config = BertPairwiseCLSConfig.from_dict({key: values[key] for key in kept if key in values})
        _check_config(config)
    if args.dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = config.classifier_dropout = args.dropout
    return Base(args, kind, config, values.get("tokenizer_class"), on_hub)


def _kind(name: str, values: dict[str, Any]) -> str:
    """A configuration's kind; releases from before `model_type` are BERT where they have BERT's keys."""
    kind = values.get("model_type")
    architectures = [str(each) for each in values.get("architectures") or ["Bert"]]
    if kind is None and all(key in values for key in SHAPE) and all(each.startswith("Bert") for each in architectures):
        kind = "bert"
    if kind not in KINDS:
        found = "a model without model_type" if kind is None else f"a {kind} model"
        raise UserError(
            f"--model_name_or_path {name}: {found}; a BERT, ERNIE or ELECTRA checkpoint is expected, such as {WORKING}"
        )
    for key, usual in (("position_embedding_type", "absolute"), ("quantization_config", None)):
        if values.get(key) not in (None, usual):
            raise UserError(
                f"--model_name_or_path {name}: {key} {str(values[key])[:40]}: weights in full precision and absolute "
                f"positions are expected, such as {WORKING}"
            )
    return str(kind)


def _check_config(config: BertPairwiseCLSConfig) -> None:
    """What a model is built by: of a run's keys those that are there, or that several tails stand on."""
    limits = {"num_hidden_layers": (1, MOST), "num_attention_heads": (1, MOST)}
    limits |= {"num_tails": (1, MOST_TAILS), "frozen_prefix_depth": (0, config.num_hidden_layers)}
    for key, (least, most) in limits.items():
        found = getattr(config, key, None)
        needless = found is None and key in OF_A_RUN and getattr(config, "num_tails", 1) == 1
        if not needless and (type(found) is not int or not least <= found <= most):
            raise ValueError(f"{key} {found!r:.40} in its config.json; {least} to {most:,} are expected")
    if config.hidden_act not in ACT2FN:
        raise ValueError(f"hidden_act {config.hidden_act!r:.40} in its config.json; gelu, relu or the like is expected")


def _is_local(name: str) -> bool:
    if Path(name).exists():
        if within := next(Path(name).glob("0_*/config.json"), None):  # sentence-transformers' form before 2.0
            raise UserError(f"--model_name_or_path {name}: the model is in {within.parent}; name that folder")
        if not (Path(name) / "config.json").is_file():
            _refuse_checkpoint(name)
            old = (Path(name) / "bert_config.json").is_file()  # its name in releases from before transformers
            way = "rename bert_config.json to that" if old else "a BERT checkpoint's folder is expected"
            raise UserError(f"--model_name_or_path {name}: no config.json in it; {way}")
        _refuse_pointers(Path(name))
        return True
    if not is_repository(name):
        owner = next((owner for start, owner in OWNERS.items() if name.startswith(start)), None)
        guess = f"; did you mean {owner}/{name}?" if owner and "/" not in name else ""
        raise UserError(
            f"--model_name_or_path {name}: no such folder; a folder or OWNER/NAME on the Hub is expected{guess}"
        )
    return False


def _refuse_pointers(folder: Path) -> None:
    """A clone without git-lfs has a few lines of text in place of each large file; of vocab.txt it makes a vocabulary.

    Raises:
        UserError: there is such a file.
    """
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size < 1024:
            with open(path, "rb") as file:
                if file.read(len(POINTER)) == POINTER:
                    raise UserError(
                        f"--model_name_or_path {folder}: {path.name} is a git-LFS pointer, not the file that it stands "
                        "for; fetch it with: git lfs pull"
                    )


@contextlib.contextmanager
def reading(name: str, part: str) -> Iterator[None]:
    """Make one line of whatever a torn or foreign file of that part of the checkpoint fails with."""
    try:
        with warnings.catch_warnings():  # torch's of a file's pickle, beside the one line
            warnings.simplefilter("ignore", UserWarning)
            yield
    except UserError:
        raise
    except pickle.UnpicklingError as error:  # torch's own message advises to run the code in it
        raise UserError(
            f"--model_name_or_path {name}: pytorch_model.bin holds other things than weights, which are not loaded; "
            "model.safetensors, or a file of weights alone, is expected"
        ) from error
    except Exception as error:  # torn files fail in as many ways as there are formats
        reason = " ".join(str(error).split())[:160]
        problem = f"{part} cannot be loaded: {type(error).__name__}: {reason}"
        raise UserError(f"--model_name_or_path {name}: {problem}") from error


def readable_labels(names: list[str], unit: str) -> list[str]:
    """What a saved model calls the data's labels: 0 and 1 of pairs by what they mean, others as they are."""
    return ["different", "same"] if names == ["0", "1"] and unit == "pairs" else names


def name_labels(base: Base, names: list[str], unit: str) -> bool:
    """Give the model the labels of its data (pairs or sentences); returns whether it is a run that had them before."""
    readable, before = readable_labels(names, unit), base.config.id2label
    had = base.kind == OURS and [before[index] for index in sorted(before)] == readable
    base.config.id2label = dict(enumerate(readable))
    base.config.label2id = {name: index for index, name in base.config.id2label.items()}
    base.config.problem_type = "regression" if len(names) == 1 else None  # so that pipelines leave a score as it is
    return had


def _refuse_checkpoint(name: str) -> None:
    """Say what makes a model of a checkpoint of our own, or of the newest in the folder of a run that did not end."""
    what, found = "a run's checkpoint, which holds the trained weights alone", list(Path(name).glob(WEIGHTS))
    if not found:
        what, found = "a run that has not ended", list(Path(name).glob(f"checkpoint-*/{WEIGHTS}"))
    if found:
        newest = max(found, key=lambda path: path.stat().st_mtime).parent
        command = shlex.join(["python", "-m", "recipe.commands.merge_checkpoint", str(newest), "FOLDER"])
        raise UserError(f"--model_name_or_path {name}: {what}; to make a whole model of it: {command}")
