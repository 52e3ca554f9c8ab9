"""What a command line asks for, all of it: to train, then to score, then to answer."""

from pathlib import Path

from recipe.arguments import RecipeArguments
from recipe.commands.evaluate import evaluate, open_against, open_labelled, with_its_model
from recipe.commands.predict import PREDICTIONS, predict
from recipe.commands.train import train
from recipe.data.opening import require_split
from recipe.errors import UserError
from recipe.evaluation.submission import submission_name
from recipe.process.failures import in_one_line
from recipe.reporting.outputs import check_answers
from recipe.system.distributed import together


def run(arguments: RecipeArguments) -> None:
    """Train unless only scores or answers are asked for; then score and answer with the model that training left.

    Raises:
        UserError, RunError, Stopped: as each of them; what a later one would refuse is refused before the first.
    """
    args = arguments.training
    if args.push_to_hub and not args.trains:
        raise UserError("--push_to_hub: the training command pushes, also of a finished run; leave it out here")
    if args.trains + args.scores + args.do_predict > 1:
        together(args, lambda: _check_splits(arguments))
    with in_one_line(args):
        if args.trains:
            train(arguments)
            arguments = with_its_model(arguments)
        if args.scores:
            evaluate(arguments)
        if args.do_predict:
            predict(arguments)


def _check_splits(arguments: RecipeArguments) -> None:
    """Open what is needed only after hours."""
    if arguments.training.scores:
        open_labelled(arguments)
        open_against(arguments)
    if arguments.training.do_predict:
        if arguments.data.test_file == "-":
            raise UserError("--test_file -: answers go to standard output; --do_predict alone is expected")
        require_split(arguments.data, arguments.data.eval_split or "test")
        check_answers(Path(arguments.training.output_dir or "."), [PREDICTIONS, submission_name(arguments.data)])
