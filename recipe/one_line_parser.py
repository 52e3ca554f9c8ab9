"""An argument parser whose every error is one line."""

import argparse
import re
from typing import Any, NoReturn

from recipe.errors import UserError


class OneLineParser(argparse.ArgumentParser):
    """argparse whose errors are UserErrors, without the usage before them, and to which -1e-4 is a number."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # by itself, in Python 3.11, it takes -1e-4 and -inf for flags; there is no public way to say otherwise
        self._negative_number_matcher = re.compile(r"^-(\.?\d|inf|nan)", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise UserError(re.sub(r"^argument (--\w+)(/--[\w-]+)?", r"\1", " ".join(message.split())))
