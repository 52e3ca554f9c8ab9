"""What is asked of a saved model."""

from recipe.command_line.parsing import parse


def words(model, *more):
    """The arguments of a command for the model in that folder."""
    return parse([f"--model_name_or_path={model}", "--use_cpu", *more])
