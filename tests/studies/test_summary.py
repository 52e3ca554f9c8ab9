import numpy as np
import pytest

from recipe.studies.pareto import draw_sweep, front
from recipe.studies.summary import Row, format_table, recommend, reference_of, short_names, together

PAIRS = 1000
ALONG = np.linspace(-1, 1, 41)  # an interval, from end to end


def make(name, *accuracies, trained=1000, seconds=60.0, roc_auc=0.7):
    """A setting whose seeds answer so many percent rightly, always the first pairs."""
    points = {
        seed: {
            **{"accuracy": accuracy, "loss": 0.5, "roc_auc": roc_auc, "trainable_parameters": trained, "threads": 2},
            **{"peak_memory_bytes": 10**9, "train_seconds": seconds, "total_seconds": 90.0, "encode_seconds": 5.0},
        }
        for seed, accuracy in enumerate(accuracies)
    }
    right = {seed: np.arange(PAIRS) < round(accuracy * PAIRS / 100) for seed, accuracy in enumerate(accuracies)}
    return Row(name, points, right)


SHALLOW = make("freeze_layers=none", 75, 76, 75.5, trained=900)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [SHALLOW, make("deep", 74.9, 75.9, 75.4, trained=50), make("deeper", 70, 71, 70.5, trained=2)],
            "deep trains least within 0.5 points: it has 0.10 points less than freeze_layers=none, the best "
            "(95 % interval over seeds 0.10 to 0.10).",
        ),
        (
            [SHALLOW, make("deep", 74.6, 75.9, 75.4, trained=50)],
            "The seeds do not tell: deep has 0.20 points less than freeze_layers=none, the best, but the 95 % interval "
            "over seeds -0.23 to 0.63 goes beyond 0.5; 4 seeds like these would tell.",
        ),
        ([SHALLOW, make("deep", 74.9, trained=50)], "The seeds do not tell: with a single one deep has 0.10 points"),
        (
            [SHALLOW, make("deep", 80, 81, 82, trained=50)],
            "deep is the best of these; freeze_layers=none, the next, has 5.50 points less (95 % interval over seeds "
            "3.35 to 7.65).",
        ),
        (
            [SHALLOW, make("deep", 75.6, 76, 75.5, trained=50)],
            "The seeds do not tell: freeze_layers=none has 0.20 points less than deep, the best, but the 95 % interval "
            "over seeds -0.66 to 1.06 reaches down to -0.5 or below; 4 seeds like these would tell.",
        ),
        (
            [make("rate=1", 70, 75), make("rate=3", 77, 75.82)],
            "The seeds do not tell: rate=1 has 3.90 points less than rate=3, the best, but the 95 % interval over "
            "seeds -35.49 to 43.29 reaches down to 0 or below; 8 seeds like these would tell.",
        ),
        (
            [make("rate=1", 70), make("rate=3", 77)],
            "The seeds do not tell: with a single one rate=1 has 7.00 points less than rate=3, the best. Three or more",
        ),
        (
            [make("rate=1", 70, 71), make("rate=2", 60, 61), make("rate=3", 77, 78)],
            "rate=3 is the best of these; rate=1, the next, has 7.00 points less (95 % interval over seeds 7.00 to",
        ),
        (
            [SHALLOW, make("other", 74, 76, 75.5, trained=900), make("deep", 70, 70, 70, trained=50)],
            "freeze_layers=none is the best of these, and nothing that trains less is within 0.5 points of it. Of the "
            "others they do not tell: other has 0.33 points less than freeze_layers=none, the best, but the 95 % ",
        ),
        (
            [SHALLOW, make("deep", 74.9, 75.9, 75.4, trained=50), make("deeper", 75, 73, 75.5, trained=2)],
            "deep trains least within 0.5 points: it has 0.10 points less than freeze_layers=none, the best (95 % "
            "interval over seeds 0.10 to 0.10). Of what trains less they do not tell: deeper has 1.00 points less than "
            "freeze_layers=none, the best, but the 95 % interval over seeds -3.30 to 5.30 reaches down to 0.5 or below",
        ),
        ([SHALLOW, make("deep", 70, 70, 70, trained=50)], "freeze_layers=none is the best of these, and nothing"),
        (
            [SHALLOW, make("deep", 75, 73, 75.5, trained=50)],
            "The seeds do not tell: deep has 1.00 points less than freeze_layers=none, the best, but the 95 % interval "
            "over seeds -3.30 to 5.30 reaches down to 0.5 or below; 49 seeds like these would tell.",
        ),
        (
            [SHALLOW, make("deep", 70, trained=50)],
            "The seeds do not tell: with a single one deep has 5.00 points less than freeze_layers=none, the best.",
        ),
        (
            [SHALLOW, make("wide", 75.5, 75, 76, trained=999)],
            "freeze_layers=none is the best of these, with wide as good.",
        ),
        (
            [SHALLOW, make("deep", 75, 76, 75.5, trained=50)],
            "deep trains least within 0.5 points: it has as many points as freeze_layers=none, the best (95 %",
        ),
        ([SHALLOW], "freeze_layers=none: 75.50; there is nothing to compare it with."),
    ],
)
def test_the_recommendation_says_what_the_seeds_show(rows, says):
    assert recommend(rows, 0.5).startswith(says)


def test_the_table_says_what_is_compared_with_what():
    rows = [
        make("freeze_layers=0-7 learning_rate=1e-4", 72.0, 71.0),
        make("freeze_layers=0-9 learning_rate=1e-4", 70.0, 70.0, roc_auc=None),
    ]
    head, first, second, *rest = format_table(rows, reference_of(rows, "first")).splitlines()
    assert head.split()[:3] == ["freeze_layers", "trained", "accuracy"]
    assert first.split() == ["0-7", "1,000", "71.50", "6.35", "2", "-", "-", "-", "0.5000", "0.700", "2.00", "1.00"]
    assert second.split()[:9] == ["0-9", "1,000", "70.00", "0.00", "2", "-1.50", "-7.85", "to", "+4.85"]
    assert second.split()[-3:] == ["nan", "2.00", "1.00"]
    joined = format_table([rows[0]._replace(together=73.0), rows[1]], rows[0]).splitlines()
    assert [line.split()[5] for line in joined[1:3]] == ["73.00", "-"]
    assert "together" in joined[0]
    assert "together" not in head
    assert rest[0] == "4 runs in 360 s, 20 s of it encoding"
    assert rest[1].startswith("difference: from freeze_layers=0-7 learning_rate=1e-4, the same seeds")
    assert reference_of(rows[::-1], "best") is rows[0]


def test_wide_intervals_do_not_run_together():
    rows = [make("a=1", 10.0, 60.0, 60.0), make("a=2", 60.0, 10.0, 60.0)]
    found = format_table(rows, rows[1]).splitlines()[1].split()[5:12]
    assert found == ["+0.00", "-124.21", "to", "+124.21", "-124.21", "to", "+124.21"]


def test_an_interval_over_pairs_alone_is_marked():
    rows = [make("a=1", 72.0, 71.0), make("a=2", 70.0, 70.0), make("a=3", 60.0)]
    table = format_table(rows, rows[0]).splitlines()
    assert ["*" in line for line in table[1:4]] == [False, False, True]
    assert table[-1] == "*: one seed; over pairs alone"
    assert "*" not in format_table(rows[:2], rows[0])


def test_names_are_short_where_the_flags_are_the_same():
    a, b = make("freeze_layers=all learning_rate=1", 70), make("freeze_layers=all learning_rate=2", 70)
    assert short_names([a, b]) == ("learning_rate", ["1", "2"])
    assert short_names([a]) == ("freeze_layers", ["all"])
    assert short_names([a, make("dropout=0", 70)]) == ("", [a.name, "dropout=0"])
    assert short_names([make("as given", 70)]) == ("", ["as given"])


def test_the_front_is_what_nothing_beats_in_both(tmp_path):
    quick, slow, beaten = make("a=1", 70, seconds=5), make("a=2", 72, seconds=50), make("a=3", 69, seconds=20)
    assert [each.name for each in front([slow, beaten, quick])] == ["a=1", "a=2"]
    draw_sweep([slow, beaten, quick], 69.0, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_names_of_settings_that_lie_together_cover_neither_each_other_nor_an_interval(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("recipe.studies.pareto.save_figure", lambda figure, path: figures.append(figure))
    flags = "freeze_layers={} learning_rate=1e-4"
    rows = [make(flags.format(f"0-{each}"), 71 + each / 30, seconds=60 + 2 * each) for each in range(3)]
    rows += [make(flags.format("all"), 69, seconds=1), make("BitFit", 66, 77, 72, seconds=100)]
    draw_sweep(rows, 69.0, tmp_path / "figure.png")
    (axes,) = figures[0].axes
    boxes = [text.get_window_extent() for text in axes.texts if text.get_text()]
    marks = [(row.mean("accuracy"), row.core_minutes, share * (row.half or 0)) for row in rows for share in ALONG]
    points = axes.transData.transform([(minutes, accuracy + away) for accuracy, minutes, away in marks])
    assert len(boxes) == len(rows)
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert not any(box.contains(*point) for point in points)


def test_seeds_that_err_on_different_pairs_are_right_together():
    labels = np.array([0, 1, 1, 0])
    one = np.array([[0.9, 0.1], [0.6, 0.4], [0.1, 0.9], [0.4, 0.6]])
    other = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.45, 0.55]])
    assert together([(one, labels), (other, labels)]) == 75
    assert together([(one, labels)]) is None
