import torch

from recipe.cache.collator import collate


def test_collate_pads_to_the_longest():
    rows = [
        {"input_ids": [2, 7, 3], "token_type_ids": [0, 0, 1], "labels": 1},
        {"input_ids": [2, 7, 8, 9, 3], "token_type_ids": [0, 0, 0, 1, 1], "labels": 0},
    ]
    batch = collate(rows, pad_token_id=6)
    assert batch["input_ids"].tolist() == [[2, 7, 3, 6, 6], [2, 7, 8, 9, 3]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert torch.equal(batch["labels"], torch.tensor([1, 0]))
