"""The whole emulator: the store, what runs tasks, and the two servers that the client talks to."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import yaml
from beaker import beaker_pb2 as pb2
from beaker import beaker_pb2_grpc

from tunewright.beaker_emulator.call_group import Office
from tunewright.beaker_emulator.calls import Call, Calls
from tunewright.beaker_emulator.certificates import make_certificates
from tunewright.beaker_emulator.fleet import Fleet
from tunewright.beaker_emulator.launches import Runner
from tunewright.beaker_emulator.lifecycle import Lifecycle
from tunewright.beaker_emulator.organization import Organization
from tunewright.beaker_emulator.refusals import Refusal
from tunewright.beaker_emulator.rest import Rest, RestServer
from tunewright.beaker_emulator.scheduler import Scheduler
from tunewright.beaker_emulator.store import Store, write_file

_LONGEST_MESSAGE_BYTES = 64 << 20
_CALLS_AT_A_TIME = 256
"""A stream of logs that is followed takes one as long as it lasts."""

_STOP_SECONDS = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listening:
    """Where the emulator is, and the files that a client needs."""

    agent_address: str
    rpc_address: str
    config_file: str
    ca_file: str
    state: str
    user: str
    workspace: str

    @property
    def variables(self) -> dict[str, str]:
        """The environment in which the unmodified client talks to it."""
        return {"BEAKER_CONFIG": self.config_file, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": self.ca_file}


class Emulator:
    """Made, started, stopped. What it knows is in the state directory and is there again the next time."""

    def __init__(
        self,
        state: Path,
        fleet: Fleet,
        runner: Runner,
        certificates: Path,
        port: int = 0,
        rpc_port: int = 0,
        registry: str | None = None,
    ) -> None:
        self._state = state
        self._certificates = certificates
        self._store = Store(state)
        self._organization = Organization(fleet)
        self._organization.found_workspaces(self._store)
        self._runner = runner
        lifecycle = Lifecycle(self._store, runner)
        self._scheduler = Scheduler(self._store, self._organization, runner, lifecycle)
        calls = Calls(Office(self._store, self._organization, lifecycle, self._scheduler, runner))
        rest = Rest(self._store, self._organization, lifecycle, self._scheduler, registry)
        self._rest = RestServer(rest, port)
        self._rpc, self._rpc_port = _rpc_server(calls, self._organization, self._store, certificates, rpc_port)

    def start(self) -> Listening:
        """Begin to answer, and to run what was queued."""
        self._rest.start()
        self._rpc.start()
        self._scheduler.start()
        listening = self._listening()
        write_file(self._state / "client.yml", yaml.safe_dump(self._client_config(listening)).encode())
        write_file(self._state / "listening.json", _json(asdict(listening)))
        return listening

    def stop(self, kill_jobs: bool = True) -> None:
        """Answer no more. Jobs are killed, or left to run until the next start."""
        self._scheduler.stop()
        self._rest.stop()
        self._rpc.stop(_STOP_SECONDS).wait()
        if kill_jobs:
            self._runner.close()
        with suppress(OSError):
            (self._state / "listening.json").unlink()

    def _listening(self) -> Listening:
        fleet = self._organization.fleet
        return Listening(
            agent_address=self._rest.address,
            rpc_address=f"127.0.0.1:{self._rpc_port}",
            config_file=str(self._state / "client.yml"),
            ca_file=str(self._certificates / "ca.pem"),
            state=str(self._state),
            user=fleet.users[0].name,
            workspace=f"{fleet.organization}/{fleet.workspaces[0].name}",
        )

    def _client_config(self, listening: Listening) -> dict[str, str]:
        fleet = self._organization.fleet
        return {
            "user_token": fleet.users[0].token,
            "agent_address": listening.agent_address,
            "rpc_address": listening.rpc_address,
            "default_org": fleet.organization,
            "default_workspace": listening.workspace,
        }


def _rpc_server(
    calls: Calls, organization: Organization, store: Store, directory: Path, port: int
) -> tuple[grpc.Server, int]:
    certificates = make_certificates(directory)
    options = [
        ("grpc.so_reuseport", 0),  # a port that is taken is refused, not shared
        ("grpc.max_send_message_length", _LONGEST_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", _LONGEST_MESSAGE_BYTES),
    ]
    server = grpc.server(ThreadPoolExecutor(_CALLS_AT_A_TIME, "rpc"), options=options)
    beaker_pb2_grpc.add_BeakerServicer_to_server(  # type: ignore[no-untyped-call]
        _servicer(calls, organization, store), server
    )
    credentials = grpc.ssl_server_credentials([(certificates.server_key, certificates.server)])
    return server, server.add_secure_port(f"127.0.0.1:{port}", credentials)


def _servicer(calls: Calls, organization: Organization, store: Store) -> Any:
    """Each of the service's methods: the emulated ones, and for all others a refusal that names the call."""
    servicer = beaker_pb2_grpc.BeakerServicer()
    for method in pb2.DESCRIPTOR.services_by_name["Beaker"].methods:
        call = calls.named(method.name)
        wrap = _streaming if method.server_streaming else _unary
        setattr(servicer, method.name, wrap(call, organization, store))
    return servicer


def _unary(call: Call, organization: Organization, store: Store) -> Callable[..., Any]:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            user = organization.user_of(_token(context))
            with store.lock:
                response = call(request, user)
                copied = type(response)()
                copied.CopyFrom(response)
                return copied
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))
        except Exception as error:
            _log.exception("%s", type(request).__name__)
            context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")

    return answer


def _streaming(call: Call, organization: Organization, store: Store) -> Callable[..., Any]:
    def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            for message in call(request, organization.user_of(_token(context))):
                if not context.is_active():
                    return
                if message is not None:
                    yield message
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))

    return answer


def _token(context: grpc.ServicerContext) -> str:
    given = dict(context.invocation_metadata()).get("authorization", "")
    kind, _, token = str(given).partition(" ")
    return token if kind.lower() == "bearer" else ""


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()
