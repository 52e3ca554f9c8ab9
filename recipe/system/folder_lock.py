"""A folder that one run has at a time."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipe.errors import UserError
from recipe.system.files import LOCK, TOKEN, make_folder
from recipe.system.locks import lock


@contextmanager
def locked(folder: Path, token: str = "", name: str = LOCK) -> Iterator[None]:
    """Hold `folder`, made if need be, for this process alone; the system lets go of it when the process dies.

    What it made of the path is removed again where nothing lies in it afterwards.

    Args:
        token: what the lock's file says, for who else sees the folder.
        name: of the lock's file; those who write other files hold another.

    Raises:
        UserError: another run holds it, or it cannot be written.
    """
    try:
        made = make_folder(folder)
        held = lock(folder / name, create=True)
        _claim(folder / name, held.handle, token)
    except BlockingIOError:
        raise UserError(
            f"--output_dir {folder}: another run writes there; wait for it, or name another folder"
        ) from None
    except OSError as error:
        problem = f"{name} in it is a link" if error.errno == errno.ELOOP else error.strerror
        raise UserError(f"--output_dir {folder}: {problem}; a folder that can be written is expected") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be gone, or hold what was written
            (folder / name).unlink(missing_ok=True)
            for each in made:
                each.rmdir()
        held.release()


def _claim(path: Path, handle: int, token: str) -> None:
    """Write the token into the lock's file, unless that is somebody else's."""
    if os.fstat(handle).st_nlink > 1 or not re.fullmatch(f"({TOKEN})?", os.read(handle, 99).decode(errors="replace")):
        raise UserError(f"--output_dir {path.parent}: {path.name} in it is another program's; name another folder")
    os.ftruncate(handle, 0)
    os.pwrite(handle, token.encode(), 0)
