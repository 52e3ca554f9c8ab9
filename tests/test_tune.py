import optuna
import pytest
import yaml

from recipe.errors import UserError
from recipe.parsing import parse
from recipe.tune import SEARCHED, tune


def test_a_search_goes_on_and_its_best_settings_are_a_run(tiny_model, pairs_dir, tmp_path, capsys):
    given = {"model_name_or_path": tiny_model, "data_dir": pairs_dir, "max_length": 32, "use_cpu": "true"}
    given |= {"per_device_train_batch_size": 35, "freeze_layers": "0-2", "output_dir": tmp_path / "tune"}
    given |= {"prefix_cache_dir": tmp_path / "cache", "dropout": 0.2}
    words = [f"--{name}={value}" for name, value in given.items()]
    tune(words, 2)
    assert capsys.readouterr().out.count(" encoded in ") == 2  # train and validation, once for all trials
    best = tune(words, 3)
    study = optuna.load_study(study_name="freeze", storage=f"sqlite:///{tmp_path / 'tune' / 'study.db'}")
    assert len(study.trials) == 3
    assert best.keys() == set(SEARCHED)
    path = tmp_path / "tune" / "best.yaml"
    values = yaml.safe_load(path.read_text())
    assert {name: values[name] for name in SEARCHED} == study.best_params
    assert "searched on" in path.read_text()
    parsed = parse([str(path)])
    assert parsed.training.learning_rate == pytest.approx(study.best_params["learning_rate"])
    assert (parsed.freeze.freeze_layers, parsed.model.dropout) == ("0-2", 0.2)
    assert parsed.training.output_dir == str(tmp_path / "tune" / "best")
    with pytest.raises(UserError, match=r"study.db: a search with another --seed"):
        tune([*words, "--seed=1"], 4)
    assert tune(words, 3) == best
