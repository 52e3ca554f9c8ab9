"""Which checkpoint a run goes on from, and what may differ from the run's beginning."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recipe import file_names
from recipe.arguments import FreezeTrainingArguments, RecipeArguments
from recipe.checkpoints.compatibility import WAY_OUT, compare, fits
from recipe.checkpoints.identity import IDENTITY
from recipe.checkpoints.manifest import Checkpoint
from recipe.checkpoints.restoring import open_resumable
from recipe.checkpoints.rotation import (
    best_step,
    checkpoint_folders,
    clean,
    linked_checkpoints,
    newest_good,
    rotate,
    step_of,
    strangers,
)
from recipe.errors import Damaged, UserError
from recipe.system.arithmetic import changed_arithmetic, other_arithmetic
from recipe.system.distributed import first_on_machine, from_all_ranks, together
from recipe.system.files import sha256_of
from recipe.system.json_files import read_json

REPORT = {"identity": IDENTITY, "model_sha256": str, "arguments?": {"training?": {"load_best_model_at_end?": bool}}}


class Resume(NamedTuple):
    """What a run goes on from: a checkpoint, or nothing.

    Attributes:
        finished: whether there is nothing left to do.
        notes: what is to be said.
        changed: what is otherwise from there on, for the run's record.
    """

    checkpoint: Checkpoint | None = None
    finished: bool = False
    notes: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """Steps behind it: -1 for nothing, more than any run has where there is nothing left to do."""
        return sys.maxsize if self.finished else self.checkpoint.step if self.checkpoint else -1


def choose(arguments: RecipeArguments, identity: dict[str, Any], rows: int) -> Resume:
    """What --resume says to go on from. Every rank must call this.

    Where each machine keeps checkpoints of its own, it is the newest that is good on all of them.

    Args:
        rows: pairs in the training split.

    Raises:
        UserError: --resume names no good checkpoint, or what may not change has changed.
    """
    args, limit = arguments.training, sys.maxsize
    while True:
        mine = together(args, lambda: _find(arguments, identity, rows, limit) if args.should_save else None)  # noqa: B023
        found = from_all_ranks(args, mine)
        if found[0] is not None and found[0].finished:  # the model is the first rank's to write
            break
        steps = {look.step for look in found if look is not None}
        if len(steps) == 1:
            break
        limit = min(steps)
    ours = found[first_on_machine(args)]
    return found[0] if ours is None or found[0].finished else ours


def _find(arguments: RecipeArguments, identity: dict[str, Any], rows: int, limit: int) -> Resume:
    """`_look`, and a check that no link is in the way of a checkpoint that is to be saved."""
    found = _look(arguments, identity, rows, limit)
    for link in linked_checkpoints(arguments.training.folder):
        if found.step < step_of(link) and _saves_at(step_of(link), arguments, rows):
            raise UserError(f"{link}: a link, which is not followed, where a checkpoint is to be saved; move it away")
    return found


def _saves_at(step: int, arguments: RecipeArguments, rows: int) -> bool:
    args, last = arguments.training, arguments.training.total_steps(rows)
    if args.save_strategy in ("no", "best"):
        return step <= last and args.save_strategy == "best"
    evaluated = args.load_best_model_at_end and args.eval_strategy == "steps"  # any of which may be the best so far
    every = args.eval_steps if evaluated and args.eval_steps else args.save_steps
    every = every if every >= 1 else math.ceil(last * every)
    each = args.steps_per_epoch(rows) if args.save_strategy == "epoch" else int(every)
    return step == last or (step < last and step % each == 0)


def _look(arguments: RecipeArguments, identity: dict[str, Any], rows: int, limit: int) -> Resume:
    """What this machine's output_dir has to go on from, of at most `limit` steps."""
    args = arguments.training
    folder = args.folder
    foreign = strangers(folder)
    if foreign:
        raise UserError(f"--output_dir {folder}: {foreign[0]} is another program's; name another --output_dir")
    if args.resume == "never" or limit < 0:
        return Resume()
    if args.resume != "auto":
        named = _named(Path(args.resume), folder, identity, arguments, rows)
        if named.step > limit:
            raise UserError(f"--resume {args.resume}: the machines have checkpoints of different steps there")
        return named
    report, changed, refusal = _finished_report(folder), [], None
    if report is not None:
        try:
            changed = compare(report["identity"], identity, str(folder / file_names.RUN))
        except UserError as error:
            refusal = error
        if not changed and refusal is None:
            _same_ending(report, args)
            return Resume(finished=True)
    checkpoint, complaints = newest_good(folder, limit, open_resumable)
    # what --resume never has begun anew in a finished run's folder has that one's model and run.json beside it
    anew = report and checkpoint and not fits(checkpoint.manifest["identity"], report["identity"])
    if refusal is not None and not anew:
        raise refusal
    if checkpoint is None and changed:
        where = f"{folder / file_names.RUN}, and no checkpoint of it is left to go on from"
        raise UserError(f"{changed[0]} in {where}; {WAY_OUT}")
    if checkpoint is None:
        return Resume(notes=tuple(complaints))
    return _go_on_from(checkpoint, identity, arguments, rows, complaints)


def _named(path: Path, output_dir: Path, identity: dict[str, Any], arguments: RecipeArguments, rows: int) -> Resume:
    try:
        checkpoint = open_resumable(path)
    except Damaged as damage:
        raise UserError(
            f"--resume {path}: {damage}; 'auto', 'never' or a good checkpoint-N folder is expected"
        ) from None
    if path.resolve().parent != output_dir.resolve() and checkpoint_folders(output_dir):
        raise UserError(f"--resume {path}: --output_dir {output_dir} has checkpoints of its own; name an empty one")
    return _go_on_from(checkpoint, identity, arguments, rows)


def _go_on_from(
    checkpoint: Checkpoint,
    identity: dict[str, Any],
    arguments: RecipeArguments,
    rows: int,
    complaints: Sequence[str] = (),
) -> Resume:
    """Going on from `checkpoint`, if what has changed since allows it."""
    before, where = checkpoint.manifest["identity"], str(checkpoint.folder)
    changed, last = compare(before, identity, where), arguments.training.total_steps(rows)
    if changed and checkpoint.step >= last:  # a changed rate that no step is left for must not be taken for honoured
        raise UserError(f"{changed[0]} in {where}, which is at step {checkpoint.step} of {last} already; {WAY_OUT}")
    notes = [f"--{flag} {now} from here on; it was {old} in {where}" for flag, old, now in changed]
    arithmetic = changed_arithmetic(before.get("arithmetic", {}), identity["arithmetic"])
    recorded = [f"--{flag} {now} (was {old})" for flag, old, now in changed] + arithmetic
    return Resume(
        checkpoint,
        notes=(*complaints, *notes, *other_arithmetic(arithmetic, where)),
        changed=(f"behind step {checkpoint.step}: {', '.join(recorded)}",) if recorded else (),
    )


def tidy(args: FreezeTrainingArguments, resume: Resume) -> None:
    """Remove what a killed run left half-written, and the checkpoints behind the one to go on from.

    Once nothing can be refused any more: --resume never removes all of them.
    """
    if not args.should_save:
        return
    folder = args.folder
    clean(folder, resume.step)
    if resume.checkpoint is not None and args.resume == "auto":  # where a kill came before it
        rotate(folder, args.save_total_limit, best_step(resume.checkpoint.state()))


def _finished_report(folder: Path) -> dict[str, Any] | None:
    """run.json of a run that ended, where the model that it speaks of is there, byte for byte."""
    try:
        report = read_json(folder / file_names.RUN, REPORT)
        return report if sha256_of(folder / file_names.MODEL) == report["model_sha256"] else None
    except (OSError, Damaged):
        return None


def _same_ending(report: dict[str, Any], args: FreezeTrainingArguments) -> None:
    """Check that a finished run has ended with the model that is asked for, the best or the last one."""
    name, where = "load_best_model_at_end", args.folder / file_names.RUN
    now = getattr(args, name)
    before = report.get("arguments", {}).get("training", {}).get(name, now)
    if before != now:
        raise UserError(f"--{name} {now}: it was {before} in {where}, which has finished; {WAY_OUT}")
