"""Whether the Hub can be reached, asked once and quickly: its own clients retry for most of a minute."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from recipe.errors import UserError

T = TypeVar("T")

SHORT = 5.0  # seconds that are waited without a word
PATIENCE = 60.0  # the longest wait, in seconds, that a busy Hub may ask for
ATTEMPTS = 3
BUSY = (429, 502, 503, 504)
WAYS_OUT = "name a local model and data (--model_name_or_path FOLDER --data_dir FOLDER), "
WAYS_OUT += "set HF_ENDPOINT to a mirror that you reach, or try the recipe with: make demo"


def require_hub(flag: str, repo_id: str, repo_type: str, cached: bool = False) -> bool:
    """Check that the Hub has `repo_id`; returns whether it answered, False where the cached copy must do.

    Args:
        cached: whether there is a copy that will do.

    Raises:
        UserError: the Hub is out of reach, or does not take the token, and there is no copy in the cache; or it has no
            such repository.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    here = "no folder here; " if repo_type == "model" else ""  # which a misspelt one is more likely to be
    if constants.HF_HUB_OFFLINE:
        if cached:
            return False
        problem = "HF_HUB_OFFLINE is set and there is no whole copy in the cache"
        problem += " (a run with --no_streaming leaves one)" if repo_type == "dataset" else ""
        raise UserError(f"{flag} {repo_id}: {here}{problem}; {WAYS_OUT}")
    try:
        patiently(lambda: HfApi().repo_info(repo_id, repo_type=repo_type, timeout=constants.HF_HUB_ETAG_TIMEOUT))
    except Exception as error:
        if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
            problem = f"neither a folder here nor a {repo_type} on {constants.ENDPOINT}; a private one needs HF_TOKEN"
            raise UserError(f"{flag} {repo_id}: {problem}") from error
        if not (is_hubs(error) or isinstance(error, (OSError, ValueError, ImportError))):  # the last: of a proxy
            raise
        if cached:
            return False
        raise UserError(f"{flag} {repo_id}: {here}{_reason(error)}") from error
    try:
        os.makedirs(constants.HF_HUB_CACHE, exist_ok=True)
    except OSError as error:  # the Hub's clients take it for a file that the repository lacks
        problem = f"cannot be kept in {constants.HF_HUB_CACHE} ({error.strerror}); name another folder with HF_HOME"
        raise UserError(f"{flag} {repo_id}: {problem}") from error
    return True


def has_copy(repo_id: str, files: Iterable[tuple[str, ...]]) -> bool:
    """Whether the Hub's cache has a model's files, one of each tuple: a download that stopped leaves some of them."""
    return all(any(in_cache(repo_id, name) for name in names) for names in files)


def is_repository(name: str) -> bool:
    """Whether a name may be OWNER/NAME on the Hub, and is no path."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def in_cache(repo_id: str, name: str) -> Path | None:
    """A file of a model's in the Hub's cache; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo_id, name) if is_repository(repo_id) else None
    return Path(found) if isinstance(found, str) else None


def fetch(flag: str, repo_id: str, name: str, cached: bool) -> Path | None:
    """A file of a model's, from the Hub or, where that is out of reach, its cache; None where it is not there.

    Raises:
        UserError: as `require_hub`, or as `download`.
    """
    return download(flag, repo_id, name) if require_hub(flag, repo_id, "model", cached) else in_cache(repo_id, name)


def download(flag: str, repo_id: str, name: str) -> Path | None:
    """A file of a model's, brought into the cache from the Hub; None where the Hub says that there is none.

    transformers, when it loads by name, takes any other answer (busy, forbidden) for that as well: without
    tokenizer_config.json it would make another tokenizer, and say nothing. So it is given files of the cache alone.

    Raises:
        UserError: it cannot be fetched, or cannot be kept.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return Path(HfApi().hf_hub_download(repo_id, name))  # which asks a busy Hub again
    except RemoteEntryNotFoundError:
        return None
    except Exception as error:
        if not is_hubs(error) and not isinstance(error, OSError):
            raise
        reason = _reason(error)
        if isinstance(error, OSError) and error.errno and not is_hubs(error):
            reason = f"cannot be kept in {constants.HF_HUB_CACHE} ({error.strerror}); name another folder with HF_HOME"
        raise UserError(f"{flag} {repo_id}: {name}: {reason}") from error


def patiently(call: Callable[[], T]) -> T:
    """What `call` gives; where the Hub is busy (429, 503), once more after as long as it asks for."""
    for _ in range(ATTEMPTS - 1):
        try:
            return call()
        except Exception as error:
            wait = _wait(error)
            if wait is None:
                raise
            if wait > SHORT:
                print(f"the Hub is busy and asks to wait: {wait:.0f} s", file=sys.stderr, flush=True)
            time.sleep(wait)
    return call()


def is_hubs(error: BaseException) -> bool:
    """Whether an error, or one that it came from, is the Hub's: an answer other than success, or no answer."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # The client's HTTP library, and with it the class of a connection error, has changed twice.
    libraries = ("httpx", "httpcore", "requests", "urllib3")
    ours = (HfHubHTTPError, OfflineModeIsEnabled, ConnectionError)
    return any(isinstance(each, ours) or type(each).__module__.startswith(libraries) for each in _chain(error))


def refusal(error: BaseException) -> str | None:
    """Why the Hub does not give what it has (status 401, 403) or had (404), and what to do; None of what may pass."""
    return _reason(error) if getattr(_response(error), "status_code", None) in (401, 403, 404) else None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _response(error: BaseException) -> Any:
    return next(filter(None, (getattr(each, "response", None) for each in _chain(error))), None)


def _wait(error: BaseException) -> float | None:
    """Seconds that a busy Hub asks to wait for, 1 where it names none; None where it is not busy or asks for long."""
    response = _response(error)
    if response is None or response.status_code not in BUSY:
        return None
    try:
        wait = float(response.headers.get("Retry-After", "1"))
    except ValueError:  # a date
        wait = SHORT
    return wait if 0 <= wait <= PATIENCE else None


def _reason(error: BaseException) -> str:
    """Why the Hub did not give what it was asked for, and what to do about it."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if isinstance(error, GatedRepoError):
        return "access must be asked for on the Hub first; then set HF_TOKEN"
    if isinstance(error, HFValidationError):
        return "OWNER/NAME on the Hub is expected; files are read by --data_dir FOLDER"
    if isinstance(error, LocalEntryNotFoundError):  # which says of all of them that there is no connection
        error = error.__cause__ or error
    status = getattr(_response(error), "status_code", None)
    if status in (401, 403) and not get_token():
        return f"{endpoint} refuses what comes without a token (status {status}); set HF_TOKEN to one"
    if status in (401, 403):
        problem = f"{endpoint} does not take the token (status {status}), which may have expired"
        return f"{problem}; set HF_TOKEN to a valid one, or unset it and run: hf auth logout"
    if isinstance(error, UnicodeEncodeError):  # a header's
        return "HF_TOKEN holds characters that no token has; set it to a valid one, or unset it"
    if status == 429:
        long = f" and asks to wait longer than {PATIENCE:.0f} s" if _wait(error) is None else ""
        return f"{endpoint} is busy (status 429){long or ', and still was when it was asked again'}; try later"
    if isinstance(error, ImportError):
        return f"{' '.join(str(error).split())[:100]}; name a proxy of http:// in ALL_PROXY, or install that package"
    reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
    reason += "; HF_HUB_ETAG_TIMEOUT=60, seconds, waits longer" * ("timed out" in reason)
    return f"cannot be fetched from {endpoint} ({reason}); {WAYS_OUT}"
