"""Is the Hub there? Asked once and quickly, since its clients retry for most of a minute before they say no."""

import os

from recipe.errors import UserError

TIMEOUT = 5.0  # seconds
WAYS_OUT = (
    "name a local model and data (--model_name_or_path FOLDER --data_dir FOLDER), "
    "set HF_ENDPOINT to a mirror that you reach, or try the recipe with: make demo"
)


def require_hub(flag: str, repo_id: str, repo_type: str, cached_file: str | None = None) -> bool:
    """Check that the Hub has `repo_id`; returns whether it answered, False where the cached copy must do.

    Raises:
        UserError: the Hub is out of reach and `cached_file` of the repository is not in its cache, or it has no such
            repository.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    cached = cached_file is not None and isinstance(
        try_to_load_from_cache(repo_id, cached_file, repo_type=repo_type), str
    )
    if constants.HF_HUB_OFFLINE:
        if cached:
            return False
        raise UserError(f"{flag} {repo_id}: HF_HUB_OFFLINE is set and there is no copy in the cache; {WAYS_OUT}")
    try:
        HfApi().repo_info(repo_id, repo_type=repo_type, timeout=TIMEOUT)
    except GatedRepoError as error:
        raise UserError(f"{flag} {repo_id}: access must be asked for on the Hub first; then set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{flag} {repo_id}: neither a folder here nor a {repo_type} on {constants.ENDPOINT}") from error
    except (OSError, HfHubHTTPError, ValueError) as error:
        return _unreachable(flag, repo_id, cached, error)
    except Exception as error:
        # The client's HTTP library, and with it the class of a connection error, has changed twice.
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        return _unreachable(flag, repo_id, cached, error)
    return True


def _unreachable(flag: str, repo_id: str, cached: bool, error: Exception) -> bool:
    if cached:
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
    raise UserError(f"{flag} {repo_id}: cannot be fetched from {endpoint} ({reason}); {WAYS_OUT}") from error
