"""Patience: which failures of a Hub are tried again, and how the others are told in a sentence."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # httpx's or httpx2's, by the version

from unlearn_hooks.errors import UnlearnError

__all__ = ["HTTPError", "explained", "may_pass", "patiently", "reason", "was_turned_away"]

T = TypeVar("T")
_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between five attempts, as huggingface_hub waits where it tries again itself
_LONGEST_WAIT = 60.0  # seconds, if the Hub asks for more
_MAY_PASS = (408, 429, 500, 502, 503, 504)
_ADVICE = {
    401: "log in with `hf auth login`, or set HF_TOKEN to a token that may write",
    403: "use a token that may write to this repository",
    404: "check the name, and that the token may see it",
    409: "something else is changing the repository; wait, and run this again",
    412: "the repository has changed meanwhile; look at the change, and run this again",
    429: "these were too many requests; wait some minutes, and run this again",
}


def may_pass(error: HTTPError) -> bool:
    """Tell whether trying again may help. The answer may have been lost after the work was done.

    Args:
        error: What the client raised.

    Returns:
        True for a lost connection and for what a busy or broken Hub answers.
    """
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in _MAY_PASS


def was_turned_away(error: HTTPError) -> bool:
    """Tell whether trying again may help and nothing can have been done; for what must not happen twice.

    Args:
        error: What the client raised.

    Returns:
        True for "too many requests" alone.
    """
    return isinstance(error, HfHubHTTPError) and error.response.status_code == 429


def patiently(call: Callable[[], T], again: Callable[[HTTPError], bool] = may_pass) -> T:
    """Call something up to five times, waiting as long as the Hub asks, or 1, 2, 4 and 8 seconds.

    Args:
        call: Does no harm if it is done twice.
        again: Which failures are tried again.

    Returns:
        What the call returns.

    Raises:
        HTTPError: The failure, if it is not tried again, or the last one.
    """
    for wait in _WAITS:
        try:
            return call()
        except HTTPError as error:
            if not again(error):
                raise
            asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
            time.sleep(min(float(asked), _LONGEST_WAIT) if asked.isdigit() else wait)
    return call()


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Say what the Hub, the connection or the client objects to.

    Args:
        doing: Begins the sentence: "Pushing to owner/name".

    Yields:
        Nothing.

    Raises:
        UnlearnError: For every failure that huggingface_hub is documented to raise.
    """
    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UnlearnError(f"{doing} failed: {reason(error)}.") from error


def reason(error: BaseException | None) -> str:
    """Say why something failed.

    Args:
        error: The failure, or one that it caused.

    Returns:
        Words without a full stop: what the Hub answered, and what to do.
    """
    cause = error
    while isinstance(cause, RuntimeError) and cause.__cause__:  # the client's threads wrap what happened to them
        cause = cause.__cause__
    if isinstance(cause, HfHubHTTPError):
        status = cause.response.status_code
        said = cause.server_message or cause.response.reason_phrase
        return f"the Hub answered {status} ({said}); {_ADVICE.get(status, 'run this again later')}"
    if isinstance(cause, HTTPError):
        return f"the Hub did not answer ({cause or type(cause).__name__}); check the connection, and run this again"
    return " ".join(str(cause).split()).rstrip(".")
