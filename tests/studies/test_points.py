import numpy as np

from recipe.errors import UserError
from recipe.evaluation.answers import Answers
from recipe.studies.points import read_answers, write_answers


def test_damaged_answers_are_refused_or_read_as_they_were_written(tmp_path):
    """Whichever bit is flipped, and wherever the file ends."""
    path, logits, labels = tmp_path / "answers.npz", np.array([[1.0, 2.0], [0.5, 0.0]]), np.array([1, 0])
    write_answers(Answers(logits, labels, seconds=0.0), path)
    whole = path.read_bytes()
    probabilities = read_answers(path)[0]
    refused, damaged = [], [whole[:end] for end in range(len(whole))]
    for place, byte in enumerate(whole):
        damaged += [whole[:place] + bytes([byte ^ 1 << bit]) + whole[place + 1 :] for bit in range(8)]
    for content in damaged:
        path.write_bytes(content)
        try:
            found = read_answers(path)
        except UserError as error:
            refused.append(str(error))
            continue
        assert np.array_equal(found[0], probabilities)
        assert np.array_equal(found[1], labels)
    assert len(refused) > len(whole)
    assert all(says.startswith(f"{path}: not a model's answers (") for says in refused)
    assert all(says.endswith("; remove it, and they are made anew") for says in refused)
