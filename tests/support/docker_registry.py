"""A real docker-registry (distribution 2.x) on a loopback port, in a directory of its own, gone when the block ends."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAM = shutil.which("docker-registry") or "/usr/bin/docker-registry"


@dataclass(frozen=True)
class DockerRegistry:
    """`address` is host:port, as it goes before the name in a reference."""

    address: str
    directory: Path
    log: Path

    def blob_path(self, digest: str) -> Path:
        """The file of a blob in the registry's storage: to break it, or to see that it is there."""
        algorithm, encoded = digest.split(":")
        return self.directory / "docker/registry/v2/blobs" / algorithm / encoded[:2] / encoded / "data"


@contextmanager
def docker_registry(
    directory: Path | None = None,
    *,
    login: tuple[str, str] | None = None,
    tls: tuple[Path, Path] | None = None,
    host: str = "127.0.0.1",
    read_only: bool = False,
) -> Iterator[DockerRegistry]:
    """Run a registry while the block runs.

    `directory` keeps its storage (default: a temporary one, removed afterwards). `login` is a user and a password that
    it then wants (Basic). `tls` is a certificate chain and a key file. Up to five ports are tried.
    """
    work = Path(tempfile.mkdtemp(prefix="shoal-registry-"))
    storage = directory or work / "storage"
    storage.mkdir(parents=True, exist_ok=True)
    try:
        for _ in range(5):
            port = free_port(host)
            process = _start(work, storage, host, port, login, tls, read_only)
            try:
                if _wait(process, host, port, tls is not None):
                    yield DockerRegistry(f"{host}:{port}", storage, work / "log")
                    return
            finally:
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        raise RuntimeError("docker-registry does not start: " + (work / "log").read_text()[-2000:])
    finally:
        shutil.rmtree(work, ignore_errors=True)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nothing listens on at this moment."""
    with socket.socket() as s:
        s.bind((host, 0))
        return int(s.getsockname()[1])


def _start(
    work: Path,
    storage: Path,
    host: str,
    port: int,
    login: tuple[str, str] | None,
    tls: tuple[Path, Path] | None,
    read_only: bool,
) -> subprocess.Popen[bytes]:
    http: dict[str, object] = {"addr": f"{host}:{port}", "secret": secrets.token_hex(8)}
    if tls is not None:
        http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}, "readonly": {"enabled": read_only}},
        },
        "http": http,
    }
    if login is not None:
        (work / "htpasswd").write_text(f"{login[0]}:{_bcrypt(login[1])}\n")
        config["auth"] = {"htpasswd": {"realm": "shoal-test", "path": str(work / "htpasswd")}}
    (work / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (work / "log").open("ab") as log:
        return subprocess.Popen(
            [PROGRAM, "serve", str(work / "config.yml")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": "/usr/bin:/bin", "HOME": str(work), "OTEL_TRACES_EXPORTER": "none"},
        )


def _wait(process: subprocess.Popen[bytes], host: str, port: int, tls: bool) -> bool:
    """Whether it answers before it ends."""
    context = ssl._create_unverified_context() if tls else None
    url = f"{'https' if tls else 'http'}://{host}:{port}/v2/"
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=context)] if context else [])
    )
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            opener.open(url, timeout=5).close()
            return True
        except urllib.error.HTTPError as e:
            e.close()
            return e.code == 401
        except OSError:
            time.sleep(0.02)
    return False


def _bcrypt(password: str) -> str:
    """An htpasswd entry; the registry takes no other kind. libcrypt is part of every Debian."""
    crypt = ctypes.CDLL(ctypes.util.find_library("crypt") or "libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    crypt.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    salt = secrets.token_hex(11).encode()
    return bytes(crypt(password.encode(), b"$2y$05$" + salt)).decode()
