"""Posts to a webhook: a few seconds at the most, again where that may help. Whatever fails is told without the URL."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
from typing import Any

from tunewright.contracts.errors import Unavailable

_TIMEOUT_SECONDS = 3.0
_PAUSES_SECONDS = (0.5, 1.0)
_HURRIED_TIMEOUT_SECONDS = 2.0
_PASSING_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class _Refused(Exception):
    """What is wrong, in words that have nothing of the URL in them, and whether it may pass."""

    def __init__(self, words: str, is_passing: bool) -> None:
        super().__init__(words)
        self.is_passing = is_passing


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, without its body."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def post(url: str, body: bytes, is_hurried: bool = False) -> None:
    """Send `body`, which is JSON. Raises Unavailable, at the latest after about 10 seconds; hurried, after 2.

    In a thread of its own: to look up a name can take longer than any timeout.
    """
    failures: list[_Refused] = [_Refused("it does not answer in time", is_passing=True)]
    thread = threading.Thread(target=_try, args=(url, body, is_hurried, failures), daemon=True)
    thread.start()
    seconds = _TIMEOUT_SECONDS * (1 + len(_PAUSES_SECONDS)) + sum(_PAUSES_SECONDS)
    thread.join(_HURRIED_TIMEOUT_SECONDS if is_hurried else seconds)
    for refused in failures[-1:]:
        raise Unavailable(f"the webhook was not told: {refused}")


def _try(url: str, body: bytes, is_hurried: bool, failures: list[_Refused]) -> None:
    """Try, and empty `failures` once it has worked."""
    for pause_seconds in (0.0,) if is_hurried else (0.0, *_PAUSES_SECONDS):
        time.sleep(pause_seconds)
        try:
            _send(url, body, _HURRIED_TIMEOUT_SECONDS if is_hurried else _TIMEOUT_SECONDS)
        except _Refused as refused:
            failures.append(refused)
            if not refused.is_passing:
                return
        else:
            failures.clear()
            return


def _send(url: str, body: bytes, timeout_seconds: float) -> None:
    if not url.startswith(("http://", "https://")):
        raise _Refused("its URL does not begin with http:// or https://", is_passing=False)
    headers = {"Content-Type": "application/json", "User-Agent": "tunewright"}
    try:
        request = urllib.request.Request(url, data=body, headers=headers, method="POST")
        urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_seconds).close()
    except urllib.error.HTTPError as error:
        error.close()
        raise _Refused(f"it answers with HTTP status {error.code}", error.code in _PASSING_STATUSES) from None
    except (http.client.InvalidURL, ValueError):  # their words have the URL in them
        raise _Refused("its URL is not valid", is_passing=False) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        words = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(reason).__name__
        raise _Refused(f"it cannot be reached ({words})", is_passing=True) from None
