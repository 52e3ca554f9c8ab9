import shutil

import pytest

from recipe.arguments import ModelArguments
from recipe.model.base_model import open_base
from recipe.model.loading import load_model


@pytest.fixture
def model_copy(tiny_model, tmp_path):
    """A copy of the tiny model, to be changed."""
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def model(tiny_model):
    """The tiny model as it is loaded, nothing of it frozen."""
    args = ModelArguments(model_name_or_path=str(tiny_model))
    base = open_base(args)
    return load_model(base)
