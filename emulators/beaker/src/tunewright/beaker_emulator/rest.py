"""The half of the API that is HTTP: experiments are made here, secrets, images and files of datasets move here."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

from beaker import beaker_pb2 as pb2

from tunewright.beaker_emulator.datasets import DatasetFiles
from tunewright.beaker_emulator.identifiers import checked_name, new_id
from tunewright.beaker_emulator.lifecycle import Code, Lifecycle
from tunewright.beaker_emulator.moments import now
from tunewright.beaker_emulator.organization import Organization
from tunewright.beaker_emulator.refusals import Conflict, Forbidden, InvalidRequest, NotEmulated, NotFound, Refusal
from tunewright.beaker_emulator.scheduler import Scheduler
from tunewright.beaker_emulator.store import Store
from tunewright.beaker_emulator.submission import Submission

_PIECE_BYTES = 1 << 20
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_log = logging.getLogger(__name__)


class Exchange:
    """One request and what is answered."""

    def __init__(self, handler: BaseHTTPRequestHandler, user: pb2.User) -> None:
        self._handler = handler
        self.user = user
        self.query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(handler.path).query))
        self.length = int(handler.headers.get("Content-Length") or 0)
        self._unread = self.length

    def header(self, name: str) -> str:
        """A header of the request, empty where it is not there."""
        return self._handler.headers.get(name) or ""

    def body(self) -> bytes:
        """All of what came."""
        data = self._handler.rfile.read(self._unread)
        self._unread = 0
        return data

    def document(self) -> Any:
        """The body as JSON."""
        try:
            return json.loads(self.body() or b"{}")
        except ValueError as error:
            raise InvalidRequest(f"the body is not JSON: {error}") from error

    def fields(self, *allowed: str) -> dict[str, Any]:
        """The body as a JSON object of these fields only."""
        document = self.document()
        if not isinstance(document, dict):
            raise InvalidRequest("the body is not a JSON object")
        if unknown := sorted(set(document) - set(allowed)):
            raise InvalidRequest(f"unknown field {unknown[0]!r}")
        return document

    def save_body(self, file: IO[bytes]) -> None:
        """Write what came to a file, a piece at a time."""
        while self._unread:
            piece = self._handler.rfile.read(min(self._unread, _PIECE_BYTES))
            if not piece:
                raise InvalidRequest("the body ended early")
            self._unread -= len(piece)
            file.write(piece)

    def answer(self, document: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Send JSON, or nothing."""
        data = b"" if document is None else json.dumps(document).encode()
        self._begin(status, len(data), {"Content-Type": "application/json", **(headers or {})})
        self._handler.wfile.write(data)

    def answer_file(self, path: Path, start: int = 0, length: int | None = None) -> None:
        """Send a file, or a part of it."""
        size = path.stat().st_size
        length = max(0, size - start) if length is None else max(0, min(length, size - start))
        is_part = start > 0 or length != size
        headers = {"Content-Type": "application/octet-stream"}
        if is_part:
            headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
        self._begin(206 if is_part else 200, length, headers)
        with path.open("rb") as file:
            file.seek(start)
            while length:
                piece = file.read(min(length, _PIECE_BYTES))
                length -= len(piece)
                self._handler.wfile.write(piece)

    def answer_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._begin(200, len(data), {"Content-Type": "application/octet-stream"})
        self._handler.wfile.write(data)

    def _begin(self, status: int, length: int, headers: dict[str, str]) -> None:
        while self._unread:
            self._unread -= len(self._handler.rfile.read(min(self._unread, _PIECE_BYTES)))
        self._handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()


class Rest:
    """Every route, and what it does. Paths are those that the client asks for."""

    def __init__(
        self, store: Store, organization: Organization, lifecycle: Lifecycle, scheduler: Scheduler, registry: str | None
    ) -> None:
        self._store = store
        self._organization = organization
        self._lifecycle = lifecycle
        self._scheduler = scheduler
        self._registry = registry
        self._files = DatasetFiles(store)
        self._uploads = store.directory / "uploads"
        self._uploads.mkdir(exist_ok=True)
        self.address = ""
        self._routes: list[tuple[str, re.Pattern[str], Callable[..., None]]] = [
            (method, re.compile(pattern), handle)
            for method, pattern, handle in (
                ("POST", r"/api/v3/workspaces/([^/]+)/experiments", self._create_experiment),
                ("GET", r"/api/v3/workspaces/([^/]+)/secrets/([^/]+)/value", self._read_secret),
                ("PUT", r"/api/v3/workspaces/([^/]+)/secrets/([^/]+)/value", self._write_secret),
                ("DELETE", r"/api/v3/workspaces/([^/]+)/secrets/([^/]+)", self._delete_secret),
                ("POST", r"/api/v3/images", self._create_image),
                ("GET", r"/api/v3/images/([^/]+)/repository", self._image_repository),
                ("PATCH", r"/api/v3/images/([^/]+)", self._commit_image),
                ("POST", r"/api/v3/datasets", self._create_dataset),
                ("GET", r"/api/v3/datasets/([^/]+)", self._show_dataset),
                ("PATCH", r"/api/v3/datasets/([^/]+)", self._commit_dataset),
                ("GET", r"/api/v3/datasets/([^/]+)/files/(.+)", self._read_file),
                ("POST", r"/storage/uploads", self._begin_upload),
                ("PATCH", r"/storage/uploads/([^/]+)", self._continue_upload),
                ("PUT", r"/storage/datasets/([^/]+)/files/(.+)", self._write_file),
                ("POST", r"/emulator/jobs/([^/]+)/preempt", self._preempt),
                ("POST", r"/emulator/nodes/([^/]+)/lose", self._lose_node),
                ("POST", r"/emulator/nodes/([^/]+)/return", self._return_node),
            )
        ]

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """One request, to its answer."""
        token = (handler.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        exchange = Exchange(handler, pb2.User())
        try:
            exchange.user = self._organization.user_of(token)
            self._route(handler, exchange)
        except Refusal as refusal:
            exchange.answer({"message": str(refusal)}, refusal.http_status)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True
        except Exception as error:
            _log.exception("%s %s", handler.command, handler.path)
            exchange.answer({"message": f"{type(error).__name__}: {error}"}, 500)

    def _route(self, handler: BaseHTTPRequestHandler, exchange: Exchange) -> None:
        path = urllib.parse.urlsplit(handler.path).path
        for method, pattern, handle in self._routes:
            if method == handler.command and (match := pattern.fullmatch(path)):
                handle(exchange, *(urllib.parse.unquote(part) for part in match.groups()))
                return
        raise NotEmulated(f"the emulator does not have {handler.command} {path}")

    def _create_experiment(self, exchange: Exchange, workspace_id: str) -> None:
        document = exchange.document()
        with self._store.lock:
            workspace = self._store.workspaces.get(workspace_id)
            submission = Submission(self._store, self._organization, exchange.user, workspace)
            experiment = submission.create(document, exchange.query.get("name"))
        self._scheduler.wake()
        exchange.answer({"id": experiment.id, "name": experiment.name})

    def _read_secret(self, exchange: Exchange, workspace_id: str, name: str) -> None:
        with self._store.lock:
            self._writable(workspace_id, exchange.user)
            secrets = self._store.secrets.get(workspace_id, {})
        if name not in secrets:
            raise NotFound(f"secret {name!r} not found")
        exchange.answer_bytes(secrets[name]["value"].encode())

    def _write_secret(self, exchange: Exchange, workspace_id: str, name: str) -> None:
        value = exchange.body().decode()
        checked_name(name, "a secret")
        with self._store.lock:
            self._writable(workspace_id, exchange.user)
            secrets = dict(self._store.secrets.get(workspace_id, {}))
            moment = now().ToNanoseconds()
            created = secrets.get(name, {}).get("created_ns", moment)
            secrets[name] = {
                "value": value,
                "author_id": exchange.user.id,
                "created_ns": created,
                "updated_ns": moment,
            }
            self._store.secrets.put(workspace_id, secrets)
        exchange.answer({"name": name})

    def _delete_secret(self, exchange: Exchange, workspace_id: str, name: str) -> None:
        with self._store.lock:
            self._writable(workspace_id, exchange.user)
            secrets = dict(self._store.secrets.get(workspace_id, {}))
            if secrets.pop(name, None) is None:
                raise NotFound(f"secret {name!r} not found")
            self._store.secrets.put(workspace_id, secrets)
        exchange.answer()

    def _create_image(self, exchange: Exchange) -> None:
        fields = exchange.fields("workspace", "imageId", "imageTag", "description", "budget")
        name = checked_name(exchange.query.get("name", ""), "an image")
        with self._store.lock:
            workspace = self._writable(fields.get("workspace", ""), exchange.user)
            full_name = f"{exchange.user.name}/{name}"
            if self._store.images.find(lambda image: image.full_name == full_name) is not None:
                raise Conflict(f"the name {name!r} is already in use")
            image = pb2.Image(
                id=new_id(),
                name=name,
                full_name=full_name,
                workspace_id=workspace.id,
                author_id=exchange.user.id,
                created=now(),
                docker_id=fields.get("imageId") or "",
                original_tag=fields.get("imageTag") or "",
                description=fields.get("description") or "",
                budget_id=self._budget_id(fields.get("budget"), workspace),
            )
            image.docker_tag = self._docker_tag(image)
            self._store.images.put(image)
        exchange.answer({"id": image.id})

    def _docker_tag(self, image: pb2.Image) -> str:
        return f"{self._registry or 'no-registry.invalid'}/{image.id.lower()}:latest"

    def _image_repository(self, exchange: Exchange, image_id: str) -> None:
        with self._store.lock:
            image = self._store.images.get(image_id)
        if self._registry is None:
            raise NotEmulated("the emulator was started without --registry: it has nowhere to push images to")
        auth = {"user": exchange.user.name, "password": "emulated", "server_address": self._registry}
        exchange.answer({"imageTag": image.docker_tag, "auth": auth})

    def _commit_image(self, exchange: Exchange, image_id: str) -> None:
        fields = exchange.fields("commit")
        with self._store.lock:
            image = self._store.images.get(image_id)
            self._writable(image.workspace_id, exchange.user)
            if fields.get("commit") and not image.HasField("committed"):
                image.committed.CopyFrom(now())
                self._store.images.put(image)
        exchange.answer({"id": image.id})

    def _create_dataset(self, exchange: Exchange) -> None:
        fields = exchange.fields("workspace", "description", "budget")
        name = checked_name(exchange.query.get("name", ""), "a dataset")
        with self._store.lock:
            workspace = self._writable(fields.get("workspace", ""), exchange.user)
            full_name = f"{exchange.user.name}/{name}"
            if self._store.datasets.find(lambda dataset: dataset.full_name == full_name) is not None:
                raise Conflict(f"the name {name!r} is already in use")
            dataset = pb2.Dataset(
                id=new_id(),
                name=name,
                full_name=full_name,
                author_id=exchange.user.id,
                workspace_id=workspace.id,
                created=now(),
                description=fields.get("description") or "",
                budget_id=self._budget_id(fields.get("budget"), workspace),
            )
            self._store.dataset_files(dataset.id).mkdir(parents=True)
            self._store.datasets.put(dataset)
        exchange.answer({"id": dataset.id, "storage": self._storage(exchange, dataset.id)})

    def _show_dataset(self, exchange: Exchange, dataset_id: str) -> None:
        with self._store.lock:
            dataset = self._store.datasets.get(dataset_id)
        exchange.answer({"id": dataset.id, "storage": self._storage(exchange, dataset.id)})

    def _storage(self, exchange: Exchange, dataset_id: str) -> dict[str, Any]:
        """As the client wants it. The token is the user's own: what is stored here is all on one machine."""
        count, size_bytes = self._files.totals(dataset_id)
        return {
            "id": dataset_id,
            "token": exchange.header("Authorization").removeprefix("Bearer ").strip(),
            "tokenExpires": "9999-12-31T23:59:59Z",
            "address": f"{self.address}/storage",
            "totalSize": size_bytes,
            "numFiles": count,
        }

    def _commit_dataset(self, exchange: Exchange, dataset_id: str) -> None:
        fields = exchange.fields("commit")
        with self._store.lock:
            dataset = self._store.datasets.get(dataset_id)
            self._writable(dataset.workspace_id, exchange.user)
            if fields.get("commit") and not dataset.HasField("committed"):
                dataset.committed.CopyFrom(now())
                self._store.datasets.put(dataset)
        exchange.answer({"id": dataset.id})

    def _read_file(self, exchange: Exchange, dataset_id: str, name: str) -> None:
        with self._store.lock:
            path = self._files.existing(dataset_id, name)
        wanted = exchange.header("Range")
        if not wanted:
            exchange.answer_file(path)
            return
        match = _RANGE.fullmatch(wanted)
        if match is None or int(match[1]) >= path.stat().st_size:
            exchange.answer({"message": f"range {wanted!r} cannot be satisfied"}, 416)
            return
        start = int(match[1])
        exchange.answer_file(path, start, int(match[2]) - start + 1 if match[2] else None)

    def _begin_upload(self, exchange: Exchange) -> None:
        upload_id = new_id()
        (self._uploads / upload_id).touch()
        exchange.answer(headers={"Upload-ID": upload_id})

    def _continue_upload(self, exchange: Exchange, upload_id: str) -> None:
        path = self._upload(upload_id)
        offset, total = int(exchange.header("Upload-Offset") or 0), int(exchange.header("Upload-Length") or 0)
        if offset > path.stat().st_size:
            raise InvalidRequest(f"offset {offset} leaves a gap after {path.stat().st_size} bytes")
        with path.open("r+b") as file:
            file.seek(offset)
            exchange.save_body(file)
            file.truncate()
        is_whole = path.stat().st_size >= total
        exchange.answer(headers={"Digest": upload_id} if is_whole else None)

    def _upload(self, upload_id: str) -> Path:
        path = self._uploads / upload_id
        if "/" in upload_id or not path.is_file():
            raise NotFound(f"upload {upload_id!r} not found")
        return path

    def _write_file(self, exchange: Exchange, dataset_id: str, name: str) -> None:
        with self._store.lock:
            dataset = self._store.datasets.get(dataset_id)
            self._writable(dataset.workspace_id, exchange.user)
            if dataset.HasField("committed"):
                raise Forbidden(f"dataset {dataset_id!r} is committed")
            path = self._files.path(dataset_id, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if digest := exchange.header("Digest"):
            shutil.move(self._upload(digest), path)
        else:
            with tempfile.NamedTemporaryFile(dir=self._uploads, delete=False) as file:
                exchange.save_body(file)
            Path(file.name).replace(path)
        path.chmod(0o644)
        exchange.answer()

    def _preempt(self, exchange: Exchange, job_id: str) -> None:
        with self._store.lock:
            job = self._store.jobs.get(job_id)
            self._lifecycle.preempt(job, Code.CANCELATION_CODE_SYSTEM_PREEMPTION, "preempted through the emulator")
        self._scheduler.wake()
        exchange.answer({"jobs": [job_id]})

    def _lose_node(self, exchange: Exchange, node_id: str) -> None:
        with self._store.lock:
            lost = self._lifecycle.lose_node(self._organization.node(node_id).message)
        self._scheduler.wake()
        exchange.answer({"jobs": [job.id for job in lost]})

    def _return_node(self, exchange: Exchange, node_id: str) -> None:
        with self._store.lock:
            self._organization.node(node_id).message.ClearField("cordon_details")
        self._scheduler.wake()
        exchange.answer({"jobs": []})

    def _writable(self, workspace_id: str, user: pb2.User) -> pb2.Workspace:
        workspace = self._store.workspaces.get(workspace_id)
        self._organization.check_writer(user, workspace)
        return workspace

    def _budget_id(self, reference: str | None, workspace: pb2.Workspace) -> str | None:
        if reference is not None:
            return self._organization.budget(reference).id
        return workspace.budget_id or None


class RestServer:
    """Serves the routes on a port of this machine's own."""

    def __init__(self, rest: Rest, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                _log.debug(format, *args)

            def do_GET(self) -> None:
                rest.handle(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        rest.address = self.address
        self._thread = threading.Thread(target=self._server.serve_forever, name="rest", daemon=True)

    @property
    def address(self) -> str:
        """As it stands in the client's configuration."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
