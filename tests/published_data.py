"""Data sets in the forms in which their authors give them out, of made rows; and the flags that read each."""

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.utils import make_pairs

COUNTS = {"train": 24, "dev": 12, "test": 8}
NLI = ("neutral", "entailment", "contradiction")


class Published(NamedTuple):
    """A form: its files, how a row is written, and the flags that read it.

    Attributes:
        files: of the three splits, in their folder; None where there is none.
        write: split, rows (id, first, second, label) -> the file's text.
        labels: as the data have them, in the order of their ids.
    """

    files: tuple[str | None, str | None, str | None]
    write: Callable[[str, list[tuple]], str]
    flags: Sequence[str] = ()
    labels: Sequence[str] = ("0", "1")
    single: bool = False
    scores: bool = False  # whether labels are numbers


def rows_of_split(split: str, labels: Sequence[str]) -> list[tuple[int, str, str, str]]:
    """Made rows: number, two sentences, and a label."""
    made = make_pairs(COUNTS[split], len(split))
    return [(i, row["sentence1"], row["sentence2"], labels[(i * i) % len(labels)]) for i, row in enumerate(made)]


def table(
    *columns: str,
    header: Sequence[str] = (),
    end: str = "\n",
    bom: bool = False,
    unlabelled: bool = False,
    delimiter: str = "\t",
):
    """A table whose columns are such format strings of {id}, {a}, {b}, {label}.

    Args:
        unlabelled: whether the test split has no labels.
    """

    def write(split: str, rows: list[tuple]) -> str:
        kept = [n for n, column in enumerate(columns) if not (unlabelled and split == "test" and "{label}" in column)]
        lines = [delimiter.join(header[n] for n in kept)] if header else []
        lines += [
            delimiter.join(columns[n].format(id=i, a=a, b=b, label=label) for n in kept) for i, a, b, label in rows
        ]
        return "\ufeff" * bom + "".join(line + end for line in lines)

    return write


def objects(first: str, second: str | None, label: str = "label", numbered: bool = False, **more: str) -> Callable:
    """One JSON object a line; in the test split with an id and no label."""

    def write(split: str, rows: list[tuple]) -> str:
        lines = []
        for i, a, b, name in rows:
            row = {**more, first: a} | ({second: b} if second else {}) | {label: name}
            if split == "test":
                del row[label]
            lines.append(row | ({"id": i} if numbered or split == "test" else {}))
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)

    return write


def undecided(write: Callable) -> Callable:
    """With a row in front on whose label the annotators did not agree."""

    def with_dash(split: str, rows: list[tuple]) -> str:
        return write(split, rows if split == "test" else [(99, "花呗", "借呗", "-"), *rows])

    return with_dash


USUAL = ("train.json", "dev.json", "test.json")
TSV = ("train.tsv", "dev.tsv", "test.tsv")
PLAIN = "--column_names=sentence1,sentence2,label"
MRPC = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
QQP = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
STSB = (*("index", "genre", "filename", "year", "old_index", "source1", "source2"), "sentence1", "sentence2", "score")
NEWS = tuple(str(number) for number in range(100, 117) if number not in (105, 111))
SCORES = ("0.000", "2.500", "5.000")
LABELS = ("--label_names", *NLI, "--on_bad_row=skip")

FORMS = {
    "lcqmc": Published(
        ("train.txt", "dev.txt", "test.txt"), table("{a}", "{b}", "{label}"), ("--data_format=tsv", PLAIN)
    ),
    "lcqmc-header": Published(
        TSV,
        table("{a}", "{b}", "{label}", header=("text_a", "text_b", "label")),
        ("--text_column_names=text_a,text_b",),
    ),
    "oppo": Published(
        (
            *("gaiic_track3_round1_train_20210228.tsv", "gaiic_track3_round2_train_20210407.tsv"),
            "gaiic_track3_round1_testB_20210317.tsv",
        ),
        table("{a}", "{b}", "{label}", unlabelled=True),
        (PLAIN,),
    ),
    "cmnli": Published(USUAL, undecided(objects("sentence1", "sentence2")), LABELS, NLI),
    "atec": Published(
        ("atec_nlp_sim_train.csv", "atec_nlp_sim_train_add.csv", None),
        table("{id}", "{a}", "{b}", "{label}", bom=True),
        ("--data_format=tsv", "--column_names=id,sentence1,sentence2,label"),
    ),
    "qbqtc": Published(
        ("train.json", "dev.json", "test_public.json"),
        objects("query", "title", numbered=True),
        ("--text_column_names=query,title", "--label_names", "0", "1", "2"),
        ("0", "1", "2"),
    ),
    "xnli": Published(
        TSV,
        table("{a}", "{b}", "{label}", header=("premise", "hypothesis", "label")),
        ("--text_column_names=premise,hypothesis", "--label_names", *NLI),
        NLI,
    ),
    "mrpc": Published(
        ("msr_paraphrase_train.txt", "msr_paraphrase_test.txt", None),
        table("{label}", "70{id}", "71{id}", '"{a}', "{b}", header=MRPC, end="\r\n", bom=True),
        ("--data_format=tsv", "--text_column_names=#1 String,#2 String", "--label_column_name=Quality"),
    ),
    "qqp": Published(
        TSV,
        table("{id}", "3", "4", "{a}", '"{b}" 吗', "{label}", header=QQP),
        ("--text_column_names=question1,question2", "--label_column_name=is_duplicate"),
    ),
    "stsb": Published(
        TSV,
        table("{id}", *["x"] * 6, "{a}", '"{b}', "{label}", header=STSB, unlabelled=True),
        ("--label_column_name=score", "--task_type=regression"),
        SCORES,
        scores=True,
    ),
    "cnsd-sts": Published(
        ("cnsd-sts-train.txt", "cnsd-sts-dev.txt", "cnsd-sts-test.txt"),
        table("{id}-0000{id}", "{a}", "{b}", "{label}", delimiter="||"),
        (
            "--data_format=tsv",
            "--delimiter=||",
            "--column_names=id,sentence1,sentence2,label",
            "--task_type=regression",
        ),
        ("0", "3", "5"),
        scores=True,
    ),
    "ocnli": Published(
        USUAL, undecided(objects("sentence1", "sentence2", level="easy", genre="lit", label0="neutral")), LABELS, NLI
    ),
    "pawsx": Published(
        ("translated_train.tsv", "dev_2k.tsv", "test_2k.tsv"),
        table("{id}", "{a}", "{b}", "{label}", header=("id", "sentence1", "sentence2", "label")),
    ),
    "bustm": Published(
        ("train_few_all.json", "dev_few_all.json", "test_public.json"), objects("sentence1", "sentence2", numbered=True)
    ),
    "bustm-tsv": Published(TSV, table("{a}", "{b}", "{label}", unlabelled=True), (PLAIN,)),
    "bq": Published(
        ("BQ_train.json", "BQ_dev.json", "BQ_test.json"),
        objects("sentence1", "sentence2", "gold_label"),
        ("--label_column_name=gold_label",),
    ),
    "afqmc": Published(USUAL, objects("sentence1", "sentence2")),
    "tnews": Published(
        USUAL,
        objects("sentence", None, label_desc="news_story", keywords=""),
        ("--text_column_names=sentence", "--label_names", *NEWS),
        NEWS,
        single=True,
    ),
}


def write_form(folder, form: Published) -> list[str]:
    """Write its files into `folder`; the flags that a user types."""
    folder.mkdir(parents=True, exist_ok=True)
    named = []
    for split, flag, name in zip(COUNTS, ("train", "validation", "test"), form.files, strict=True):
        if name is not None:
            (folder / name).write_text(form.write(split, rows_of_split(split, form.labels)), "utf-8", newline="")
            named.append(f"--{flag}_file={folder / name}")
    by_folder = all(name.partition(".")[0] == split for split, name in zip(COUNTS, form.files, strict=True) if name)
    return [*([f"--data_dir={folder}"] if by_folder else named), *form.flags]
