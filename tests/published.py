"""A model laid out as the Hub ships such models: key prefixes, heads, old names, bare tokenizer files."""

import json
import shutil

import torch
from safetensors.torch import load_file, save_file

from recipe.arguments import ModelArguments
from recipe.model.base_model import open_base

FORMS = ("bert-base-chinese", "roberta-wwm", "vocab-only", "ernie", "electra", "old-wwm")
KEPT = ("hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers")
KEPT += ("vocab_size", "type_vocab_size", "hidden_act", "layer_norm_eps")


def publish(source, folder, form):
    """Lay the model in `source` out in `folder` as `form`; its encoder computes the same, up to rounding."""
    folder.mkdir(parents=True)
    state = {name.removeprefix("bert."): value for name, value in load_file(source / "model.safetensors").items()}
    config = json.loads((source / "config.json").read_text())
    config = {key: config[key] for key in KEPT} | {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n", encoding="utf-8")
    prefix = "bert."
    if form == "ernie":
        prefix = "ernie."
        config |= {"model_type": "ernie", "architectures": ["ErnieForMaskedLM"], "use_task_id": True}
        config["task_type_vocab_size"] = 3
        tasks = torch.linspace(-0.1, 0.1, 3 * config["hidden_size"]).view(3, -1)
        state["embeddings.task_type_embeddings.weight"] = tasks
        state["embeddings.token_type_embeddings.weight"] = state["embeddings.token_type_embeddings.weight"] - tasks[0]
    if form == "electra":
        prefix = "electra."
        config |= {"model_type": "electra", "architectures": ["ElectraForPreTraining"]}
        config |= {"embedding_size": config["hidden_size"], "summary_activation": "gelu", "summary_use_proj": True}
    state = {prefix + name: value.contiguous() for name, value in state.items()} | heads(state, config["hidden_size"])
    if form == "bert-base-chinese":
        write_json(folder / "tokenizer_config.json", {"do_lower_case": False, "model_max_length": 512})
        shutil.copy(source / "tokenizer.json", folder)
        config |= {"directionality": "bidi", "pooler_type": "first_token_transform"}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save({old_name(name) if "wwm" in form else name: state[name] for name in state}, folder / WEIGHTS)
    if form == "roberta-wwm":
        special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
        write_json(folder / "special_tokens_map.json", special)
        write_json(folder / "tokenizer_config.json", {"init_inputs": []})
        shutil.copy(source / "tokenizer.json", folder)
    if form == "old-wwm":  # from before configurations named their model
        del config["model_type"], config["architectures"]
    write_json(folder / "config.json", config)
    return folder


WEIGHTS = "pytorch_model.bin"


def heads(state, hidden):
    """The pooler and the pre-training heads that a published checkpoint carries."""
    rows = len(state["embeddings.word_embeddings.weight"])
    shapes = {"bert.pooler.dense.weight": (hidden, hidden), "bert.pooler.dense.bias": (hidden,)}
    shapes |= {"cls.predictions.bias": (rows,), "cls.predictions.decoder.weight": (rows, hidden)}
    shapes |= {"cls.predictions.transform.dense.weight": (hidden, hidden)}
    shapes |= {"discriminator_predictions.dense.weight": (hidden, hidden)}
    shapes |= {"cls.predictions.transform.LayerNorm.weight": (hidden,), "cls.seq_relationship.weight": (2, hidden)}
    return {name: torch.full(shape, 0.01) for name, shape in shapes.items()}


def old_name(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def write_json(path, content):
    path.write_text(json.dumps(content, indent=2))


def edit_json(path, **values):
    """Change some values of a JSON file; None removes a key."""
    content = {**json.loads(path.read_text()), **values}
    write_json(path, {key: value for key, value in content.items() if value is not None})


def open_folder(folder, **options):
    return open_base(ModelArguments(model_name_or_path=str(folder), **options))
