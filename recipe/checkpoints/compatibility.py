"""What may differ between a run's beginning and its resume: honoured from there on, said, or refused."""

from typing import Any, NamedTuple

from recipe.cache.cached_split import PrefixState, recorded_state
from recipe.checkpoints.identity import as_text, default_of
from recipe.checkpoints.manifest import Checkpoint
from recipe.errors import UserError
from recipe.system.arithmetic import refuse_other_precision
from recipe.training_fields import HONOURED

SCHEDULE = "training.lr_scheduler_type"
UNSCALED = {"reduce_lr_on_plateau", "greedy"}  # schedules that are no function of the step alone

WAY_OUT = "give the old one, name another --output_dir, or start over: --resume never"


class Change(NamedTuple):
    """A flag that a resume has changed, and its values as a user gives them."""

    flag: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"--{self.flag} {self.now}: it was {self.before}"


def compare(old: dict[str, Any], new: dict[str, Any], where: str) -> list[Change]:
    """What has changed and is honoured.

    Raises:
        UserError: something has changed that a resume must not change.
    """
    changed = []
    by_metric = UNSCALED & {each["arguments"].get(SCHEDULE) for each in (old, new)}
    for name, now in sorted(new["arguments"].items(), key=lambda each: (each[0] != SCHEDULE, each[0])):
        before = old["arguments"][name] if name in old["arguments"] else default_of(name)  # a flag that is newer
        flag = name.rpartition(".")[2]
        if before == now:
            continue
        if flag not in HONOURED:
            raise UserError(f"{Change(flag, as_text(before), as_text(now))} in {where}; {WAY_OUT}")
        if by_metric:
            told = f"{Change(flag, as_text(before), as_text(now))} in {where}"
            raise UserError(f"{told}, and with {min(by_metric)} none of this can change; {WAY_OUT}")
        changed.append(Change(flag, as_text(before), as_text(now)))
    if old["trainable"] != new["trainable"]:
        raise UserError(f"{_freezing(old, new)} in {where}: other parameters would be trained; {WAY_OUT}")
    if old["processes"] != new["processes"]:
        raise UserError(f"{new['processes']} processes: there were {old['processes']} in {where}; {WAY_OUT}")
    refuse_other_precision(old.get("arithmetic", {}), new["arithmetic"], where, WAY_OUT)
    if old["labels"] != new["labels"]:
        raise UserError(f"labels {as_text(new['labels'])}: they were {as_text(old['labels'])} in {where}; {WAY_OUT}")
    for split in sorted(old["data"].keys() | new["data"].keys()):
        _same_bytes(f"the {split} data", old["data"].get(split), new["data"].get(split), where)
    for part in ("frozen", "trained"):
        _same_bytes("the weights of --model_name_or_path", old["weights"][part], new["weights"][part], where)
    _same_bytes("its tokenizer", old["tokenizer"], new["tokenizer"], where)
    for part, what in (("config", "its config.json"), ("tokenizer_options", "its tokenizer")):
        _same_settings(what, old.get(part, {}), new[part], where)
    return changed


def fits(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether `compare` lets a run that is made of `new` go on from one that was made of `old`."""
    try:
        compare(old, new, "")
    except UserError:
        return False
    return True


def same_prefix(checkpoint: Checkpoint, prefix: PrefixState) -> None:
    """Check that the frozen prefix comes to the tail as it did before: from the same kind of cache, or from none.

    Raises:
        UserError: it does not.
    """
    before = recorded_state(checkpoint.manifest["prefix"])
    if before != prefix:
        raise UserError(f"prefix cache {prefix}: it was {before} in {checkpoint.folder}; {WAY_OUT}")


def _same_settings(what: str, old: dict[str, Any], new: dict[str, Any], where: str) -> None:
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            raise UserError(f"{what}: {name} {as_text(new[name])}: it was {as_text(old[name])} in {where}; {WAY_OUT}")


def _same_bytes(what: str, old: str | None, new: str | None, where: str) -> None:
    if old != new:
        texts = [value[:12] if value else "none" for value in (new, old)]
        raise UserError(f"{what} (sha256 {texts[0]}): sha256 {texts[1]} in {where}; {WAY_OUT}")


def _freezing(old: dict[str, Any], new: dict[str, Any]) -> str:
    for name in ("freeze_layers", "freeze_embeddings", "freeze_modules", "unfreeze_modules"):
        before, now = old["freezing"][name], new["freezing"][name]
        if before != now:
            return f"--{name} {as_text(now)}: it was {as_text(before)}"
    return "the model"
