"""The hub: what a model has at a commit, and its bytes. The only module that talks to the network.

Requests, authorisation and the hub's errors are those of huggingface_hub. Its own download begins every file anew after
an interruption (huggingface_hub issue #4196), so the bytes are taken here, from where the last call ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import HfApi, constants, get_session, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# It is documented, but `utils` marks no name as exported.
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from tunewright.contracts.errors import IntegrityError, NotFound, TunewrightError, Unavailable, UsageError
from tunewright.env_builder.models.pins import ModelPin
from tunewright.env_builder.models.retries import Listener, MayPass, RetryPolicy, retrying

LIBRARY_VERSION = huggingface_hub.__version__

_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
# The base of every error of the HTTP client. huggingface_hub changed clients between versions (httpx, httpx2), but its
# own error has always been one of theirs.
_HTTP_ERROR = next(
    base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError" and issubclass(base, Exception)
)
_TOKEN_HINT = (
    "make a token that may read it on the hub (Settings > Access Tokens) and give it in HF_TOKEN, or by `hf auth login`"
)


@dataclass(frozen=True)
class HubFile:
    """One file of a model, as the hub announces it."""

    name: str
    size_bytes: int
    blob: str
    """What its content must give: SHA-256 (64 digits) of a large file, the git id (40 digits) of a small one."""


@dataclass(frozen=True)
class HubClient:
    """One hub. The address is `HF_ENDPOINT`'s unless one is given; the token is huggingface_hub's."""

    endpoint: str = constants.ENDPOINT
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_seconds: float = constants.HF_HUB_DOWNLOAD_TIMEOUT

    @property
    def address(self) -> str:
        """The hub's address without credentials: what may be written down."""
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def list_files(self, pin: ModelPin, listener: Listener) -> tuple[HubFile, ...]:
        """Every file of the model at its commit.

        Raises NotFound for a model or commit that the hub does not have, Unavailable where it does not answer, or not
        this user.
        """
        if not self.endpoint.startswith(("http://", "https://")):
            raise UsageError(f"HF_ENDPOINT: must begin with `https://` or `http://`, got `{self.endpoint}`")

        def ask() -> Any:
            with _hub_errors(pin, self.address), _foreign_answers(self.address):
                api = HfApi(endpoint=self.endpoint, library_name="tunewright")
                return api.model_info(
                    pin.model_id, revision=pin.commit, files_metadata=True, timeout=self.timeout_seconds
                )

        info = self._retrying(pin, ask, listener, lambda: 0)
        if info.sha != pin.commit:
            raise NotFound(f"{pin}: the hub's `{pin.commit}` is a branch or a tag, of commit {info.sha}")
        return tuple(_announced(pin, sibling) for sibling in info.siblings or ())

    def download(self, pin: ModelPin, file: HubFile, path: Path, listener: Listener) -> None:
        """Bring `path` to the file's full length, from what it holds already. Its content is the caller's to check.

        Raises as `list_files`, and IntegrityError for a file that goes on after its end; what has come stays.
        """
        url = hf_hub_url(pin.model_id, file.name, revision=pin.commit, endpoint=self.endpoint)

        def take() -> None:
            with _hub_errors(pin, self.address, file.name), path.open("ab") as out:
                self._append(url, pin, file, out, listener.advance)

        self._retrying(pin, take, listener, lambda: path.stat().st_size if path.exists() else 0, file.name)

    def _append(self, url: str, pin: ModelPin, file: HubFile, out: BinaryIO, advance: Callable[[int], None]) -> None:
        """Write to `out` what it lacks. Raises MayPass where the connection ended too soon."""
        start = _start_within(out, file.size_bytes, advance)
        if start == file.size_bytes:
            return
        # Bytes as they are stored: those of a compressed answer could not be counted on from the middle.
        headers = {**build_hf_headers(library_name="tunewright"), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with get_session().stream("GET", url, headers=headers, timeout=self.timeout_seconds) as response:
            if response.is_error:
                response.read()
                hf_raise_for_status(response)
            if start and response.status_code != 206:
                out.truncate(0)
                advance(-start)
                start = 0
            elif start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise MayPass(f"{file.name}: the hub sent other bytes than those from {start} on")
            for chunk in response.iter_bytes():
                if out.tell() + len(chunk) > file.size_bytes:
                    raise IntegrityError(
                        f"{pin}: {file.name} goes on after the {file.size_bytes} bytes the hub announced"
                    )
                out.write(chunk)
                advance(len(chunk))
        out.flush()
        if out.tell() < file.size_bytes:
            raise MayPass(f"{file.name}: the connection ended at byte {out.tell()} of {file.size_bytes}")

    def _retrying(
        self,
        pin: ModelPin,
        action: Callable[[], Any],
        listener: Listener,
        position: Callable[[], int],
        name: str = "",
    ) -> Any:
        try:
            return retrying(self.retry, action, listener, position)
        except MayPass as error:
            what = f"{pin.model_id}: {name}: " if name else f"{pin.model_id}: "
            kept = "what has come is kept: the same command goes on from there" if name else "is the network up?"
            raise Unavailable(
                f"{what}the hub at {self.address} could not be reached: {error.reason} "
                f"(tried {self.retry.attempts} times)",
                f"{kept}; a mirror's address goes into HF_ENDPOINT",
            ) from None


def _start_within(out: BinaryIO, size_bytes: int, advance: Callable[[int], None]) -> int:
    """Where `out` ends; the beginning, where it is longer than the file can be and so is not of the file."""
    start = out.tell()
    if start <= size_bytes:
        return start
    out.truncate(0)
    advance(-start)
    return 0


def _announced(pin: ModelPin, sibling: Any) -> HubFile:
    blob = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    size = sibling.lfs.size if sibling.lfs else sibling.size
    if blob is None or size is None:
        raise IntegrityError(f"{pin}: the hub announces neither digest nor size of {sibling.rfilename}")
    return HubFile(sibling.rfilename, size, blob)


@contextmanager
def _hub_errors(pin: ModelPin, address: str, name: str = "") -> Iterator[None]:
    """What the hub and the HTTP client raise, in our words. No header and no full address: they hold secrets."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise Unavailable(
            f"{pin.model_id}: HF_HUB_OFFLINE is set: nothing is fetched", "unset it (and TRANSFORMERS_OFFLINE)"
        ) from None
    except HfHubHTTPError as error:
        raise _answer(error, pin, address, name) from None
    except _HTTP_ERROR as error:
        raise MayPass(f"{name or address}: {str(error).strip() or type(error).__name__}") from None


@contextmanager
def _foreign_answers(address: str) -> Iterator[None]:
    """Say in words that something else than a hub answered: a proxy's page, a wrong address."""
    try:
        yield
    except HfHubHTTPError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        message = f"{address} does not answer as a model hub does: {type(error).__name__}"
        raise Unavailable(message, "check HF_ENDPOINT, and proxies on the way") from None


def _answer(error: HfHubHTTPError, pin: ModelPin, address: str, name: str) -> Exception:
    """The hub's refusal: MayPass where it may answer otherwise soon, an error of ours for the rest."""
    status = error.response.status_code
    if status in _TRANSIENT:
        return MayPass(f"{name or address}: the hub answered {status}", _asked_seconds(error))
    return _refusal(error, pin, status, name)


def _refusal(error: HfHubHTTPError, pin: ModelPin, status: int, name: str) -> TunewrightError:
    stranger = "authorization" not in error.response.request.headers
    who = "without a token" if stranger else "with the token it was given"
    page = f"https://huggingface.co/{pin.model_id}"
    if isinstance(error, GatedRepoError):
        message = f"{pin.model_id}: the hub gives this model only to those who accepted its terms, and not {who}"
        return Unavailable(message, f"accept them on {page}; then {_TOKEN_HINT}")
    # The hub answers 401 where it does not tell strangers what there is; the library knows that of https:// only.
    if isinstance(error, RepositoryNotFoundError) or (status == 401 and stranger and not name):
        message = f"{pin.model_id}: the hub has no such model, or a private one that it does not show {who}"
        return NotFound(message, f"check the spelling on {page}; for a private model {_TOKEN_HINT}")
    if isinstance(error, RevisionNotFoundError):
        message = f"{pin.model_id}: the hub's model has no commit {pin.commit}"
        return NotFound(message, f"its commits: {page}/commits/main")
    if isinstance(error, RemoteEntryNotFoundError):
        return NotFound(f"{pin}: the hub lists {name} but does not have it", "try again; then tell the hub")
    if status in (401, 403):
        return Unavailable(f"{pin.model_id}: the hub answered {status}: it does not give it {who}", _TOKEN_HINT)
    words = f": {error.server_message}" if error.server_message else ""
    return Unavailable(f"{pin.model_id}: {name + ': ' if name else ''}the hub answered {status}{words}")


def _asked_seconds(error: HfHubHTTPError) -> float | None:
    asked = error.response.headers.get("Retry-After", "")
    return float(asked) if asked.isdecimal() else None
