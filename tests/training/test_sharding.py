"""FSDP2 by accelerate's own configuration, on two CPU processes; and the configuration files of configs/accelerate."""

import shutil

import pytest
from accelerate.commands.config import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from recipe.checkpoints.rotation import checkpoint_folders, strangers
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.system.distributed import check_sharding
from tests.launching import fork_ranks, small_run
from tests.utils import ROOT, assert_close, history, outcome

CONFIGS = ROOT / "configs" / "accelerate"


def settings(name):
    """The environment that accelerate launch makes of a configuration file."""
    args = launch_command_parser().parse_args(["--config_file", str(CONFIGS / name), "run_freeze.py"])
    return prepare_multi_gpu_env(_validate_launch_command(args)[0])


def shard_on_cpu():
    """Have accelerate take CPU processes for GPU ones, which alone it shards."""
    from accelerate import state

    init = state.PartialState.__init__

    def as_gpus(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if self.distributed_type == state.DistributedType.MULTI_CPU:
            self.distributed_type = state.DistributedType.MULTI_GPU

    state.PartialState.__init__ = as_gpus


def fsdp_env():
    names = ("ACCELERATE_USE_FSDP", "FSDP_")
    return {name: value for name, value in settings("fsdp2.yaml").items() if name.startswith(names)}


@pytest.mark.parametrize("cache", ["on", "off"])
def test_sharded_trains_resumes_and_saves_like_one_rank(arguments, tiny_model, pairs_dir, tmp_path, cache):
    words = ["--dropout=0", "--num_train_epochs=2", "--prefix_cache_dtype=float32", f"--prefix_cache={cache}"]
    words += ["--save_strategy=steps", "--save_steps=1", "--save_total_limit=9", "--eval_strategy=steps"]
    words += ["--eval_steps=1", "--learning_rate=1e-3"]
    train(arguments("--per_device_train_batch_size=32", *words, f"--output_dir={tmp_path / 'one'}"))

    def run():
        flags = [
            *small_run(tiny_model, pairs_dir, tmp_path / "cache of two"),
            *words,
            f"--output_dir={tmp_path / 'run'}",
        ]
        ends = fork_ranks(flags, [tmp_path, tmp_path], env=fsdp_env(), prepare=shard_on_cpu)
        assert [end.status for end in ends] == [0, 0], ends[0].err + ends[1].err
        return ends[0].out

    assert "going on" not in run()
    assert (tmp_path / "run" / "checkpoint-3" / "pytorch_model_fsdp.bin").is_file()  # it was FSDP
    for key in ("loss", "grad_norm", "eval_loss"):
        assert_close(history(tmp_path / "one", key), history(tmp_path / "run", key), 1e-5)
    expected = outcome(tmp_path)
    for checkpoint in checkpoint_folders(tmp_path / "run")[:3]:
        shutil.rmtree(checkpoint)
    (tmp_path / "run" / "run.json").unlink()
    assert "going on from step 3: " in run()
    assert outcome(tmp_path) == expected


def test_sharded_states_are_refused(monkeypatch):
    check_sharding({})
    check_sharding(fsdp_env())
    with pytest.raises(UserError, match=r"fsdp_state_dict_type SHARDED_STATE_DICT: .* FULL_STATE_DICT is expected"):
        check_sharding({**fsdp_env(), "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"})


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_each_configuration(path):
    config = load_config_from_file(str(path))
    kinds = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED"}
    assert config.distributed_type == kinds[path.stem]
    assert config.num_processes == 2
    assert path.read_text().count("run_freeze.py configs/afqmc.yaml") == 1
    if path.stem != "ddp":
        assert "NOT RUN ON GPUs" in path.read_text()


def test_what_sharded_runs_leave_half_written_is_theirs(tmp_path):
    folder = tmp_path / "checkpoint-3"
    (folder / "global_step3").mkdir(parents=True)
    names = ["optimizer.bin", "pytorch_model_fsdp.bin", "latest", "zero_to_fp32.py", "zero_to_torch.py"]
    names += ["global_step3/mp_rank_00_model_states.pt", "global_step3/zero_pp_rank_1_mp_rank_00_optim_states.pt"]
    for name in names:
        (folder / name).touch()
    assert strangers(tmp_path) == []
