"""In what form a file's rows are written: by its name, or as the flags say."""

from pathlib import Path
from typing import NamedTuple

from recipe.arguments import DataArguments
from recipe.errors import UserError
from recipe.rows.columns import Columns, listed

KINDS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
SUFFIXES = tuple(KINDS)
EXCEL = (".xlsx", ".xls", ".xlsm", ".et")
DELIMITERS = {"csv": ",", "tsv": "\t"}
TAB = ("\\t", "tab")  # what a shell or YAML leaves of it


class Form(NamedTuple):
    """How a file is read.

    Attributes:
        delimiter: of a table: what stands between fields; empty for JSON and Parquet.
        names: of a table: its columns, where line 1 does not say them.
        quoting: of a table: minimal, where quotes enclose fields; none, where they are text; auto: not known yet.
    """

    kind: str  # csv, tsv, json or parquet
    columns: Columns
    delimiter: str = ""
    names: tuple[str, ...] = ()
    quoting: str = ""

    @classmethod
    def of(cls, path: Path, args: DataArguments) -> "Form":
        """The form of the file at `path`.

        Raises:
            UserError: neither its name nor --data_format says it, or it is an Excel file.
        """
        suffix = Path(path.name.removesuffix(".gz")).suffix
        kind, columns = KINDS.get(suffix), Columns.of(args)
        if kind not in ("json", "parquet"):  # whose names leave no doubt, also beside tables
            kind = args.data_format or kind
        if suffix.lower() in EXCEL:
            raise UserError(f"{path}: an Excel file; in Excel save it as CSV UTF-8, which is expected")
        if kind is None:
            raise UserError(
                f"{path}: a file ending in {', '.join(SUFFIXES)}, plain or .gz, is expected, or --data_format, which "
                "says what a file of any other name is"
            )
        if kind not in DELIMITERS:
            return cls(kind, columns)
        delimiter = "\t" if args.delimiter in TAB else args.delimiter or DELIMITERS[kind]
        quoting = args.csv_quoting
        if quoting == "auto" and (delimiter == "," or len(delimiter) > 1):  # no writer encloses between longer ones
            quoting = "minimal" if delimiter == "," else "none"
        return cls(kind, columns, delimiter, tuple(listed(args.column_names)), quoting)
