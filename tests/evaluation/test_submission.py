from recipe.arguments import DataArguments
from recipe.evaluation.submission import submission_name


def test_a_submission_is_named_after_the_configuration():
    for config, name, expected in [
        ("ocnli", "clue/clue", "ocnli_predict.json"),
        ("", "shibing624/nli-zh", "nli-zh_predict.json"),
        ("../x", "a/b", "_x_predict.json"),
    ]:
        assert submission_name(DataArguments(dataset_config_name=config, dataset_name=name)) == expected
