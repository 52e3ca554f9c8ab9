"""FreezeTrainer: the Trainer with this recipe's batches, loss and checkpoints, stopped by a NaN or infinite loss."""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer_utils import TrainOutput

from recipe.batches.order import TrainBatches
from recipe.checkpoints.carried import Carried, so_far
from recipe.checkpoints.manifest import begin, open_checkpoint, remove_checkpoint, seal
from recipe.checkpoints.random_states import keep_device_state, take_device_state
from recipe.checkpoints.restoring import going_on
from recipe.checkpoints.rotation import best_folder, best_step, keep_alone, rotate
from recipe.errors import Damaged, RunError
from recipe.internals import count_steps_from, set_last_rates
from recipe.model.weights import load_trainable, save_trainable, trainable_weights
from recipe.process.failures import tell_lost
from recipe.process.progress import say
from recipe.system.files import describe_free
from recipe.training.accelerator import watch_losses
from recipe.training.loss import LossWatch
from recipe.training.workers import EvenLoader, workers_that_leave


class FreezeTrainer(Trainer):
    """A Trainer whose batches come in this recipe's order, and whose checkpoints hold what training changes.

    Attributes:
        run: what each checkpoint's manifest says of the run that it is of.
        encode_seconds: that computing the frozen prefix took before the run.
        carried: the run before this process.
        began: when this process began to train, by time.perf_counter.
        logged_before: entries of the log that are of earlier processes.
    """

    run: Mapping[str, Any] = MappingProxyType({})
    encode_seconds: float = 0.0
    carried: Carried = Carried()
    began: float = 0.0
    logged_before: int = 0
    _step_loss: Tensor | None = None  # summed over the micro-batches since the last step: NaN of any of them shows
    _watch: LossWatch | None = None

    def get_train_dataloader(self) -> DataLoader:
        """The training micro-batches of this rank, not sharded by accelerate: they are this rank's own already."""
        return EvenLoader.of(self.train_dataset, self.data_collator, self.args)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The Trainer's, whose workers never stay, so that each evaluation draws as `EvenLoader` does."""
        with workers_that_leave(self.args):
            return super().get_eval_dataloader(eval_dataset)

    def num_examples(self, dataloader: DataLoader) -> int:
        """Examples of an epoch; the length of a training loader is that of its micro-batches."""
        data = dataloader.dataset
        return data.count if isinstance(data, TrainBatches) else super().num_examples(dataloader)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: the Trainer's formula counts frozen and parked layers as trained ones, and walks them all at each step."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's; no loss is logged before it is looked at."""
        self._look()
        super().log(logs, start_time)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass.

        Raises:
            RunError: the loss is not finite. The optimizer has not stepped, so the weights are still good.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_loss = loss if self._step_loss is None else self._step_loss + loss
        if self.accelerator.sync_gradients:
            whole, self._step_loss = self._step_loss, None
            self._watch = self._watch or watch_losses(self.optimizer, self.accelerator, Path(self.args.output_dir))
            self._watch.add(whole, self.state.global_step + 1)
        return loss

    def _look(self) -> None:
        """Before a loss is logged, or weights are saved."""
        if self._watch is not None:
            self._watch.look()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder, model = Path(output_dir or self.args.output_dir), self.accelerator.unwrap_model(self.model)
        weights = trainable_weights(model)  # of all ranks, where FSDP has sharded them
        if self.args.should_save and folder.name.startswith("checkpoint-"):
            save_trainable(weights, folder)
        elif self.args.should_save:
            model.save_pretrained(folder, state_dict=state_dict)
            self.processing_class.save_pretrained(folder)

    def _determine_best_metric(self, metrics: dict[str, Any], trial: Any) -> bool:
        """The Trainer's; a score that is undefined, None, is never the best. One to be loaded is saved at once."""
        name = f"eval_{(self.args.metric_for_best_model or '').removeprefix('eval_')}"
        found = metrics.get(name, math.inf) is not None and super()._determine_best_metric(metrics, trial)
        self.control.should_save |= found and self.args.load_best_model_at_end  # also between two --save_steps
        return found

    def _evaluate(self, trial: Any, ignored: list[str] | None, skip_scheduler: bool = False) -> dict[str, float]:
        """The Trainer's; but none on start, for which alone `skip_scheduler` stands, where a run goes on."""
        return {} if skip_scheduler and self.state.global_step else super()._evaluate(trial, ignored, skip_scheduler)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push nothing: a checkpoint is not a model, and the folder has no model before the end of training."""

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """The Trainer's checkpoint, sealed by a manifest; only then do older ones go (Trainer rotates before).

        Raises:
            RunError: it cannot be written. What was written of it is removed; the older ones are as they were.
        """
        self._look()
        carried = so_far(self, self.carried, self.encode_seconds)._asdict()
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            if self.args.should_save:
                begin(folder)
            self.accelerator.wait_for_everyone()  # what lies in the folder now is not ours
            super()._save_checkpoint(model, trial)
            keep_device_state(folder, self.args)
            self.accelerator.wait_for_everyone()  # each rank writes its own random state
            if self.args.should_save:
                trainable = [name for name, value in self.model.named_parameters() if value.requires_grad]
                seal(folder, {"step": self.state.global_step, "trainable": trainable, "carried": carried, **self.run})
        except (OSError, RuntimeError, SafetensorError) as error:
            remove_checkpoint(folder)
            tell_lost(self.args, error)
            reason = f"{' '.join(str(error).split())} ({describe_free(folder.parent)})"
            raise RunError(f"{folder}: cannot be written: {reason}; the older checkpoints are as they were") from error
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate(folder.parent, limit, best_step(vars(self.state)))

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> TrainOutput:
        """The Trainer's end, with figures of the whole run, where its checkpoints have them, not of this process.

        At --save_total_limit 1 the Trainer would remove all else that is named like a checkpoint.
        """
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        count_steps_from(self, self.carried.since)
        try:
            output = super()._finalize_training(trial, num_train_samples, start_time - self.carried.train_seconds)
        finally:
            self.args.save_total_limit = limit
        if limit == 1 and self.args.should_save and self.state.best_model_checkpoint:
            keep_alone(Path(self.args.output_dir), best_step(vars(self.state)))
        return output

    def _init_training_state(self, max_steps: int, *args: Any) -> tuple[int, int]:
        """Where to go on from; the Trainer keeps the checkpoint's cadence and folder, and forgets an early stop."""
        with going_on(args[-2]):
            epoch, passed = super()._init_training_state(max_steps, *args)
        self.state.compute_steps(self.args, max_steps)
        folders = Path(self.args.output_dir), Path(args[-2] or "").parent
        self.state.best_model_checkpoint = best_folder(vars(self.state), *folders)
        stopping = [each for each in self.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
        if any(each.early_stopping_patience_counter >= each.early_stopping_patience for each in stopping):
            say(self.args, f"note: --early_stopping_patience {self.args.early_stopping_patience} is used up")
            return args[1], 0  # behind the last epoch
        return epoch, passed

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The checkpoint's, with the rate and schedule that this run was given (the Trainer would keep the old)."""
        with going_on(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        schedule = self.lr_scheduler
        if checkpoint is None or not isinstance(schedule, LambdaLR):
            return
        schedule.base_lrs = [self.args.learning_rate] * len(schedule.base_lrs)
        rates = [self.args.learning_rate * scale(schedule.last_epoch) for scale in schedule.lr_lambdas]
        set_last_rates(schedule, rates)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"], group["initial_lr"] = rate, self.args.learning_rate

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with going_on(checkpoint):
            super()._load_rng_state(checkpoint)
            take_device_state(checkpoint, self.args)

    def _load_best_model(self) -> None:
        try:
            load_trainable(self.model, open_checkpoint(Path(self.state.best_model_checkpoint)).folder)
        except Damaged as damage:
            raise RunError(f"the best checkpoint is damaged: {damage}; {self.args.same_command} remakes it") from None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trainable(model or self.model, Path(resume_from_checkpoint))
