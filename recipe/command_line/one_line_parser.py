"""An argument parser whose every error is one line."""

import argparse
import re
from typing import Any, NoReturn

from recipe.errors import UserError
from recipe.internals import take_negative_numbers


class OneLineParser(argparse.ArgumentParser):
    """argparse that takes no shortened flags, and -1e-4 for a number; its errors are UserErrors without the usage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        take_negative_numbers(self)

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise UserError(re.sub(r"^argument (--\w+)(/--[\w-]+)?", r"\1", " ".join(message.split())))
