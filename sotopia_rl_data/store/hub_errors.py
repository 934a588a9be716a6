"""What huggingface_hub's errors mean: each as one of ours, with a hint. For all that asks the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError comes from its HTTP library
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sotopia_rl_data.errors import HubError, HubUnavailable, NotFound, StoreError, UsageError
from sotopia_rl_data.secrets import redact
from sotopia_rl_data.store.disk import is_full, store_error
from sotopia_rl_data.store.hub_answers import HTTP_LIBRARY, bounded_answers

_TEMPORARY = (408, 409, 412, 425, 429)  # statuses of requests to try again, as are all 5xx

_STUMBLES = (
    *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
    HTTP_LIBRARY.InvalidURL,
)  # of huggingface_hub, over answers that the Hub would not give


@contextmanager
def hub_errors(repo: str, kind: str, page: str, endpoint: str) -> Iterator[None]:
    """Turns huggingface_hub's errors about a repository of this kind into ours; `page` is its web page, `endpoint` the
    Hub's address. An EntryNotFoundError stays one. Answers are bounded, and those that huggingface_hub stumbles over
    (lists for objects, deep brackets) are errors of the server."""
    try:
        with bounded_answers():
            yield
    except OfflineModeIsEnabled as error:
        raise HubUnavailable("HF_HUB_OFFLINE is set, so the Hub cannot be asked.", "unset HF_HUB_OFFLINE") from error
    except GatedRepoError as error:
        raise HubError(f"{repo} is gated.", f"ask for access at {page}") from error
    except RevisionNotFoundError as error:
        raise NotFound(f"{repo} has no such revision on the Hub.", f"see {page}/tree/main") from error
    except RepositoryNotFoundError as error:
        raise NotFound(
            f"The Hub has no {kind} {repo}, or none that your token may see.",
            "check the name; for a private one set HF_TOKEN, or run `hf auth login`",
        ) from error
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, HfHubHTTPError):
            raise _status_error(error.__cause__, repo, page) from error
        raise HubUnavailable(f"{endpoint} cannot be reached ({one_line(error)}).", "check the network") from error
    except EntryNotFoundError:
        raise
    except HfHubHTTPError as error:
        raise _status_error(error, repo, page) from error
    except HFValidationError as error:
        raise UsageError(f"{repo!r} cannot name a repository: {one_line(error)}.", "write ORG/NAME") from error
    except HTTPError as error:
        raise HubUnavailable(
            f"{endpoint} cannot be reached ({one_line(error)}).",
            "check the network and HF_ENDPOINT, then run the same command again",
        ) from error
    except OSError as error:
        raise _local(error, repo) from error
    except _STUMBLES as error:
        raise HubError(
            f"{endpoint} does not answer as the Hub does ({type(error).__name__}: {one_line(error)}).",
            "check HF_ENDPOINT",
        ) from error


def _status_error(error: HfHubHTTPError, repo: str, page: str) -> HubError:
    status = error.response.status_code
    told = error.server_message or error.response.headers.get("X-Error-Message")
    reason = one_line(told or error)
    if status in (401, 403):
        return HubError(
            f"The Hub refuses the token for {repo} ({status}: {reason}).",
            "set HF_TOKEN to a token that has access, or run `hf auth login`",
        )
    if status in _TEMPORARY or status >= 500:
        after = error.response.headers.get("Retry-After", "")
        return HubUnavailable(
            f"A request for {repo} failed on the Hub ({status}: {reason}).",
            "run the same command again: it continues from there",
            status=status,
            retry_after=float(after) if after.isdecimal() and after.isascii() else None,
        )
    return HubError(
        f"The Hub refused a request for {repo} ({status}: {reason}).", f"check HF_ENDPOINT, and look at {page}"
    )


def _local(error: OSError, repo: str) -> Exception:
    """The error for an OSError: about the disk of the cache, or (without a number) about the Hub."""
    if error.errno is not None and is_full(error):
        return no_room(str(error.strerror))
    ours = store_error(error, Path(constants.HF_HUB_CACHE), "cache of huggingface_hub") if error.errno else None
    if ours is not None:
        return StoreError(ours.message, "set HF_HOME to a folder that can be written")
    if isinstance(error, PermissionError):
        return HubError(
            f"The Hub refuses the token for {repo} ({one_line(error)}).", "set HF_TOKEN to a token that has access"
        )
    return HubUnavailable(f"{repo}: {one_line(error)}.", "run the same command again")


def no_room(reason: str) -> StoreError:
    return StoreError(
        f"There is no room left for huggingface_hub's cache, {constants.HF_HUB_CACHE} ({reason}).",
        "free some space, or set HF_HOME to a folder with more",
    )


def one_line(error: BaseException | str) -> str:
    """The text of an error, or what a server said of it, in one short line."""
    return redact(" ".join(str(error).split()).rstrip("."), loosely=False)[:300] or type(error).__name__
