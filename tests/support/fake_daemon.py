"""A daemon of threads and scripts for the client's tests: the real API over real TLS, with nothing behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2

from shoal import pki
from shoal.errors import DOMAIN, FailedPrecondition, NotFound, ShoalError
from shoal.v1 import (
    container_pb2,
    container_pb2_grpc,
    file_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
    types_pb2,
    volume_pb2,
    volume_pb2_grpc,
)
from tests.support.fake_files import FakeFiles

CREATED = 1_700_000_000


@dataclass(slots=True)
class Certificates:
    """A CA and what it signed, on disk."""

    directory: Path
    ca: pki.KeyPair
    host: pki.KeyPair

    @classmethod
    def make(cls, directory: Path, name: str = "fake", san: str = "127.0.0.1") -> Certificates:
        """A new CA with a host and a user `admin`: ca.pem, admin.pem, admin-key.pem."""
        ca = pki.create_ca(f"{name} CA")
        made = cls(directory, ca, pki.issue_host(ca, name, [san]))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "ca.pem").write_bytes(ca.cert_pem)
        pki.issue_user(ca, "admin", "admin").save(directory / "admin.pem", directory / "admin-key.pem")
        return made

    def config(self, name: str, port: int) -> str:
        """The host's lines in the client's configuration."""
        return (
            f'[hosts.{name}]\naddress = "127.0.0.1:{port}"\nca = "{self.directory}/ca.pem"\n'
            f'cert = "{self.directory}/admin.pem"\nkey = "{self.directory}/admin-key.pem"\n'
        )


@dataclass(slots=True)
class FakeDaemon:
    """One host. What it holds and what it was asked are plain lists; `trouble` maps a method's name to an error."""

    certificates: Certificates
    port: int = 0
    containers: list[container_pb2.Container] = field(default_factory=list)
    images: list[image_pb2.Image] = field(default_factory=list)
    volumes: list[volume_pb2.Volume] = field(default_factory=list)
    records: list[container_pb2.LogRecord] = field(default_factory=list)
    events: list[system_pb2.Event] = field(default_factory=list)
    build_events: list[image_pb2.BuildEvent] = field(default_factory=list)
    index: image_pb2.ImageServiceInspectIndexResponse | None = None
    """What builds make."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)
    trouble: dict[str, ShoalError] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)
    """How often a stream breaks off in its middle, by the method's name."""
    slow: dict[str, float] = field(default_factory=dict)
    """How many seconds a method takes before it does anything, by its name."""
    exit_code: int = 0
    hangs: bool = False
    hangs_after_output: bool = False
    stdin: bytearray = field(default_factory=bytearray)
    released: threading.Event = field(default_factory=threading.Event)
    _server: Any = None

    def __enter__(self) -> FakeDaemon:
        server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        container_pb2_grpc.add_ContainerServiceServicer_to_server(_Containers(self), server)
        image_pb2_grpc.add_ImageServiceServicer_to_server(_Images(self), server)
        system_pb2_grpc.add_SystemServiceServicer_to_server(_System(self), server)
        volume_pb2_grpc.add_VolumeServiceServicer_to_server(_Volumes(self), server)
        file_pb2_grpc.add_FileServiceServicer_to_server(FakeFiles(self, refuse), server)
        pair = self.certificates.host
        tls = grpc.ssl_server_credentials(
            [(pair.key_pem, pair.cert_pem)], root_certificates=self.certificates.ca.cert_pem, require_client_auth=True
        )
        self.port = server.add_secure_port("127.0.0.1:0", tls)
        server.start()
        self._server = server
        return self

    def __exit__(self, *exc: object) -> None:
        self.released.set()
        self._server.stop(0).wait()

    def requests(self, method: str) -> list[Any]:
        """The requests of one method, in order."""
        return [request for name, request in list(self.asked) if name == method]

    def note(self, method: str, request: Any, context: Any) -> None:
        """Remember the request; hang or fail where the script says so."""
        self.asked.append((method, request))
        if self.hangs:
            self.released.wait(60)
        if method in self.slow:
            self.released.wait(self.slow[method])
        if method in self.trouble:
            refuse(context, self.trouble[method])

    def broken(self, method: str, context: Any) -> None:
        """Break the stream off if the script has breaks left."""
        if self.breaks.get(method, 0) > 0:
            self.breaks[method] -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    def find(self, name: str, context: Any) -> container_pb2.Container:
        """The container with this name or id."""
        for item in self.containers:
            if name == item.name or item.id.startswith(name):
                return item
        refuse(context, NotFound(f"no container {name!r}", reason="CONTAINER_NOT_FOUND", hint="shoal ps -a"))
        raise AssertionError


def refuse(context: Any, error: ShoalError) -> None:
    """Abort the call with the error as google.rpc.Status."""
    code = grpc.StatusCode[error.code]
    status = status_pb2.Status(code=code.value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    status.details.add().Pack(info)
    context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
    context.abort(code, error.message)


def at(seconds: float = CREATED) -> Timestamp:
    """A timestamp."""
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


def container(name: str, letter: str = "a", **fields: Any) -> container_pb2.Container:
    """A running container with an id of one letter."""
    values: dict[str, Any] = {
        "id": letter * 64,
        "name": name,
        "image": "docker.io/library/busybox:latest",
        "image_id": "sha256:" + "1" * 64,
        "command": ["sleep", "1000"],
        "state": container_pb2.CONTAINER_STATE_RUNNING,
        "created_at": at(),
        "started_at": at(),
    }
    return container_pb2.Container(**(values | fields))


def record(text: str, *, error: bool = False, seconds: float = CREATED) -> container_pb2.LogRecord:
    """A line of a log."""
    stream = container_pb2.LogRecord.STREAM_STDERR if error else container_pb2.LogRecord.STREAM_STDOUT
    return container_pb2.LogRecord(time=at(seconds), stream=stream, data=text.encode())


def _sample(item: container_pb2.Container) -> container_pb2.ContainerServiceStatsResponse.Sample:
    return container_pb2.ContainerServiceStatsResponse.Sample(
        id=item.id,
        name=item.name,
        time=at(),
        cpu_fraction=0.256,
        memory_bytes=1 << 20,
        memory_limit_bytes=4 << 20,
        network_received_bytes=1000,
        network_sent_bytes=2000,
        pids=3,
    )


class _Containers(container_pb2_grpc.ContainerServiceServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon

    def Run(self, request: Any, context: Any) -> Any:
        self._daemon.note("Run", request, context)
        name = request.spec.name or "happy_name"
        made = container(name, "c", image=request.spec.image, command=list(request.spec.command))
        self._daemon.containers.insert(0, made)
        return container_pb2.ContainerServiceRunResponse(container=made, warnings=[])

    def List(self, request: Any, context: Any) -> Iterator[Any]:
        self._daemon.note("List", request, context)
        for item in self._daemon.containers:
            yield container_pb2.ContainerServiceListResponse(container=item)

    def Start(self, request: Any, context: Any) -> Any:
        self._daemon.note("Start", request, context)
        return container_pb2.ContainerServiceStartResponse(container=self._daemon.find(request.name, context))

    def Stop(self, request: Any, context: Any) -> Any:
        self._daemon.note("Stop", request, context)
        return container_pb2.ContainerServiceStopResponse(container=self._daemon.find(request.name, context))

    def Create(self, request: Any, context: Any) -> Any:
        self._daemon.note("Create", request, context)
        made = container(request.spec.name or "happy_name", "c", state=container_pb2.CONTAINER_STATE_CREATED)
        self._daemon.containers.insert(0, made)
        return container_pb2.ContainerServiceCreateResponse(container=made, warnings=["mind the gap"])

    def Restart(self, request: Any, context: Any) -> Any:
        self._daemon.note("Restart", request, context)
        return container_pb2.ContainerServiceRestartResponse(container=self._daemon.find(request.name, context))

    def Pause(self, request: Any, context: Any) -> Any:
        self._daemon.note("Pause", request, context)
        self._daemon.find(request.name, context).state = container_pb2.CONTAINER_STATE_PAUSED
        return container_pb2.ContainerServicePauseResponse()

    def Unpause(self, request: Any, context: Any) -> Any:
        self._daemon.note("Unpause", request, context)
        self._daemon.find(request.name, context).state = container_pb2.CONTAINER_STATE_RUNNING
        return container_pb2.ContainerServiceUnpauseResponse()

    def Rename(self, request: Any, context: Any) -> Any:
        self._daemon.note("Rename", request, context)
        self._daemon.find(request.name, context).name = request.new_name
        return container_pb2.ContainerServiceRenameResponse()

    def Update(self, request: Any, context: Any) -> Any:
        self._daemon.note("Update", request, context)
        found = self._daemon.find(request.name, context)
        return container_pb2.ContainerServiceUpdateResponse(container=found, warnings=["half of it"])

    def Top(self, request: Any, context: Any) -> Any:
        self._daemon.note("Top", request, context)
        self._daemon.find(request.name, context)
        response = container_pb2.ContainerServiceTopResponse
        rows = [response.Process(fields=["42", "sleep  1"]), response.Process(fields=["43"])]
        return response(titles=["PID", "CMD"], processes=rows)

    def Stats(self, request: Any, context: Any) -> Iterator[Any]:
        self._daemon.note("Stats", request, context)
        for _ in range(1 if request.one_shot else 2):
            yield container_pb2.ContainerServiceStatsResponse(samples=map(_sample, self._daemon.containers))
            time.sleep(0.01)
            self._daemon.broken("Stats", context)
        if self._daemon.hangs_after_output:
            self._daemon.released.wait(30)

    def Changes(self, request: Any, context: Any) -> Iterator[Any]:
        self._daemon.note("Changes", request, context)
        self._daemon.find(request.name, context)
        response = container_pb2.ContainerServiceChangesResponse
        for kind, path in ((1, "/etc"), (2, "/etc/new"), (3, "/old\n")):
            yield response(changes=[response.Change(kind=kind, path=path)])  # type: ignore[arg-type]
            time.sleep(0.01)
            self._daemon.broken("Changes", context)

    def Commit(self, request: Any, context: Any) -> Any:
        self._daemon.note("Commit", request, context)
        self._daemon.find(request.name, context)
        return container_pb2.ContainerServiceCommitResponse(image_id="sha256:" + "7" * 64)

    def Prune(self, request: Any, context: Any) -> Any:
        self._daemon.note("Prune", request, context)
        return container_pb2.ContainerServicePruneResponse(ids=["a" * 64], freed_bytes=2000)

    def Kill(self, request: Any, context: Any) -> Any:
        self._daemon.note("Kill", request, context)
        self._daemon.find(request.name, context)
        self._daemon.released.set()
        return container_pb2.ContainerServiceKillResponse()

    def Wait(self, request: Any, context: Any) -> Any:
        self._daemon.note("Wait", request, context)
        self._daemon.find(request.name, context)
        return container_pb2.ContainerServiceWaitResponse(exit_code=self._daemon.exit_code)

    def Remove(self, request: Any, context: Any) -> Any:
        self._daemon.note("Remove", request, context)
        found = self._daemon.find(request.name, context)
        self._daemon.containers.remove(found)
        return container_pb2.ContainerServiceRemoveResponse(id=found.id)

    def Inspect(self, request: Any, context: Any) -> Any:
        self._daemon.note("InspectContainer", request, context)
        found = self._daemon.find(request.name, context)
        spec = container_pb2.ContainerSpec(name=found.name, image=found.image, env=["A=1"], labels={"k": "v"})
        return container_pb2.ContainerServiceInspectResponse(container=found, spec=spec)

    def Logs(self, request: Any, context: Any) -> Iterator[Any]:
        self._daemon.note("Logs", request, context)
        self._daemon.find(request.name, context)
        yield from self._output("Logs", request.cursor, context, container_pb2.ContainerServiceLogsResponse)

    def Attach(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        first = next(requests)
        self._daemon.note("Attach", first, context)
        response = container_pb2.ContainerServiceAttachResponse
        yield response(attached=response.Attached())
        cursor = "" if first.start.cursor == "start" else first.start.cursor
        for batch in self._output("Attach", cursor, context, response.Output):
            yield response(output=batch)
        if first.start.stdin:
            yield from self._echo(requests, response, context)
        if self._daemon.hangs_after_output:
            self._daemon.released.wait(30)
        yield response(exit=response.Exit(exit_code=self._daemon.exit_code))

    def _echo(self, requests: Iterator[Any], response: Any, context: Any) -> Iterator[Any]:
        for request in requests:
            kind = request.WhichOneof("message")
            self._daemon.asked.append((kind, request))
            if kind == "stdin_eof":
                self._daemon.broken("StdinEof", context)
                return
            if kind == "stdin":
                self._daemon.stdin += request.stdin
                yield response(output=response.Output(records=[record(request.stdin.decode())], cursor="echo"))

    def _output(self, method: str, cursor: str, context: Any, make: Callable[..., Any]) -> Iterator[Any]:
        begin = len(self._daemon.records) if cursor == "echo" else int(cursor or 0)
        for number, line in enumerate(self._daemon.records):
            if number >= begin:
                yield make(records=[line], cursor=str(number + 1))
                time.sleep(0.01)  # an abort right behind a message would overtake it
                self._daemon.broken(method, context)


class _Images(image_pb2_grpc.ImageServiceServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon

    def Pull(self, request: Any, context: Any) -> Iterator[Any]:
        self._daemon.note("Pull", request, context)
        response = image_pb2.ImageServicePullResponse
        yield response(started=response.Started(request_id=request.request_id, reference=request.reference))
        layer = "sha256:" + "2" * 64
        for phase, done in ((2, 10), (3, 100), (5, 100)):
            yield response(progress=types_pb2.Progress(id=layer, phase=phase, done_bytes=done, total_bytes=100))
        time.sleep(0.01)
        self._daemon.broken("Pull", context)
        if self._daemon.hangs_after_output:
            self._daemon.released.wait(30)
        yield response(image=image(request.reference))

    def Push(self, request: Any, context: Any) -> Iterator[Any]:
        self._daemon.note("Push", request, context)
        response = image_pb2.ImageServicePushResponse
        yield response(started=response.Started(request_id=request.request_id, reference=request.reference))
        yield response(
            pushed=response.Pushed(reference=request.reference, digest="sha256:" + "3" * 64, size_bytes=1234)
        )

    def Build(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        start = next(requests)
        self._daemon.note("Build", start, context)
        response = image_pb2.ImageServiceBuildResponse
        for digest in start.start.context_manifests.values():
            if digest not in self._daemon.blobs:
                refuse(context, FailedPrecondition("no such context", reason="CONTEXT_MISSING"))
        yield response(started=response.Started(request_id=start.start.request_id))
        data = bytearray()
        for request in requests:
            data += request.context_chunk
        self._daemon.asked.append(("context", bytes(data)))
        for event in self._daemon.build_events:
            yield response(event=event)
            time.sleep(0.01)
            self._daemon.broken("Build", context)
        if "BuildEnd" in self._daemon.trouble:
            refuse(context, self._daemon.trouble["BuildEnd"])
        yield response(image=image("built"), index_digest=self._daemon.index.digest if self._daemon.index else "")

    def InspectIndex(self, request: Any, context: Any) -> Any:
        self._daemon.note("InspectIndex", request, context)
        return self._daemon.index

    def Export(self, request: Any, context: Any) -> Iterator[Any]:
        self._daemon.note("Export", request, context)
        yield image_pb2.ImageServiceExportResponse(chunk=bytes(1024))

    def FollowBuild(self, request: Any, context: Any) -> Iterator[Any]:
        self._daemon.note("FollowBuild", request, context)
        response = image_pb2.ImageServiceFollowBuildResponse
        for event in self._daemon.build_events:
            if event.cursor > request.cursor:
                yield response(event=event)
        yield response(image=image("built"))

    def List(self, request: Any, context: Any) -> Iterator[Any]:
        self._daemon.note("ListImages", request, context)
        for item in self._daemon.images:
            yield image_pb2.ImageServiceListResponse(image=item)

    def Inspect(self, request: Any, context: Any) -> Any:
        self._daemon.note("InspectImage", request, context)
        for item in self._daemon.images:
            if request.name in item.id or any(request.name in tag for tag in item.tags):
                config = image_pb2.ImageServiceInspectResponse.Config(env=["PATH=/bin"], cmd=["sh"])
                return image_pb2.ImageServiceInspectResponse(image=item, config=config)
        refuse(context, NotFound(f"no image {request.name!r}", reason="IMAGE_NOT_FOUND"))
        raise AssertionError

    def Tag(self, request: Any, context: Any) -> Any:
        self._daemon.note("Tag", request, context)
        return image_pb2.ImageServiceTagResponse()

    def Remove(self, request: Any, context: Any) -> Any:
        self._daemon.note("RemoveImage", request, context)
        return image_pb2.ImageServiceRemoveResponse(untagged=[request.name], deleted=["sha256:" + "1" * 64])


class _System(system_pb2_grpc.SystemServiceServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon

    def Ping(self, request: Any, context: Any) -> Any:
        self._daemon.note("Ping", request, context)
        return system_pb2.SystemServicePingResponse(time=at())

    def Version(self, request: Any, context: Any) -> Any:
        self._daemon.note("Version", request, context)
        return system_pb2.SystemServiceVersionResponse(version="9.9", api_version="v1", runtime="crun 1.0")

    def Info(self, request: Any, context: Any) -> Any:
        self._daemon.note("Info", request, context)
        return system_pb2.SystemServiceInfoResponse(
            host_id="id", hostname="fake", cpus=2, memory_bytes=2**30, caller_role="admin", caller_name="admin"
        )

    def Events(self, request: Any, context: Any) -> Iterator[Any]:
        self._daemon.note("Events", request, context)
        for event in self._daemon.events:
            if event.cursor > request.cursor:
                yield system_pb2.SystemServiceEventsResponse(event=event)
                time.sleep(0.01)
                self._daemon.broken("Events", context)

    def Cancel(self, request: Any, context: Any) -> Any:
        self._daemon.note("Cancel", request, context)
        self._daemon.released.set()
        return system_pb2.SystemServiceCancelResponse(cancelled=True)


class _Volumes(volume_pb2_grpc.VolumeServiceServicer):
    def __init__(self, daemon: FakeDaemon) -> None:
        self._daemon = daemon

    def List(self, request: Any, context: Any) -> Iterator[Any]:
        self._daemon.note("ListVolumes", request, context)
        for volume in self._daemon.volumes:
            yield volume_pb2.VolumeServiceListResponse(volume=volume)

    def Import(self, requests: Iterator[Any], context: Any) -> Any:
        self._daemon.note("ImportVolume", next(requests), context)
        for _ in requests:
            pass
        return volume_pb2.VolumeServiceImportResponse()

    def Remove(self, request: Any, context: Any) -> Any:
        self._daemon.note("RemoveVolume", request, context)
        return volume_pb2.VolumeServiceRemoveResponse()


def image(reference: str, letter: str = "1", **fields: Any) -> image_pb2.Image:
    """An image with an id of one letter."""
    values: dict[str, Any] = {
        "id": "sha256:" + letter * 64,
        "tags": [reference],
        "created_at": at(),
        "size_bytes": 4_260_000,
        "platform": types_pb2.Platform(os="linux", architecture="amd64"),
    }
    return image_pb2.Image(**(values | fields))
