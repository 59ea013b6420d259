"""Contexts that a host keeps between builds: only what changed is sent, and every build has its own files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest

from shoal.pki import Role
from shoal.v1 import file_pb2
from shoal.v1.file_pb2_grpc import FileServiceStub
from tests.support.daemon import Fleet

BIG = 3_000_000


def build(host: Fleet, context: Path, *flags: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Build it as the image `it`; all that was said."""
    command = host.command("build", "-t", "it", *flags, context)
    done = subprocess.run(
        command, capture_output=True, text=True, env={**host.environment(), **(env or {})}, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def puts(host: Fleet) -> int:
    """How often clients have sent something: a manifest, or some contents."""
    return host.first.log().count("/shoal.v1.FileService/Put")


def run(host: Fleet, script: str) -> str:
    return host.shoal("run", "--rm", "--network", "none", "it", "sh", "-c", script).stdout


def kept(host: Fleet) -> Path:
    """The files of the context that was used last."""
    return max((host.first.root / "contexts").iterdir(), key=lambda path: path.stat().st_mtime) / "files"


def blobs(host: Fleet) -> list[str]:
    return os.listdir(host.first.root / "files" / "blobs")


@pytest.fixture
def context(busybox: str, tmp_path: Path) -> Path:
    """A context whose contents no other test has."""
    directory = tmp_path / "context"
    (directory / "src" / "deep").mkdir(parents=True)
    (directory / "Dockerfile").write_text(f"FROM {busybox}\nCOPY src /src\n")
    (directory / "src" / "big").write_bytes(os.urandom(BIG))
    for number in range(8):
        (directory / "src" / "deep" / f"f{number}").write_text(f"{number} {os.urandom(8).hex()}")
    (directory / "src" / "text").write_text(f"{os.urandom(8).hex()}\n")
    return directory


def test_an_unchanged_context_is_not_sent_again(host: Fleet, context: Path) -> None:
    before = blobs(host)
    assert "context: Sending (3MB)" in build(host, context)
    assert blobs(host) == before, "all of it is in the context"
    inode, count = (kept(host) / "src/big").stat().st_ino, puts(host)
    said = build(host, context) + build(host, context, "--no-cache")
    assert (puts(host) - count, "Sending" in said, "[stage-0 2/2] COPY src /src\n#2 CACHED" in said) == (0, False, True)
    assert (kept(host) / "src/big").stat().st_ino == inode
    assert run(host, "cat /src/text") == (context / "src/text").read_text()


def test_only_what_changed_is_sent(host: Fleet, context: Path) -> None:
    build(host, context)
    before = {name: (kept(host) / name).stat().st_ino for name in ("src/big", "src/deep/f1", "src/text")}
    (context / "src/text").write_bytes(b"x" * 600_000 + b"\n")
    count = puts(host)
    assert "Sending" not in build(host, context)
    assert puts(host) - count == 2, "a manifest and a file"
    after = {name: (kept(host) / name).stat().st_ino for name in before}
    assert {name for name in before if before[name] != after[name]} == {"src/text"}
    assert run(host, "wc -c < /src/text; wc -c < /src/big") == f"600001\n{BIG}\n"
    assert sorted(os.listdir(kept(host))) == ["Dockerfile", "src"]


def test_times_alone_change_nothing(host: Fleet, context: Path) -> None:
    build(host, context)
    for path in ("src/text", "src/deep", "src/big"):
        os.utime(context / path, (1_000_000_000, 1_000_000_000))
    count = puts(host)
    assert "COPY src /src\n#2 CACHED" in build(host, context)
    assert puts(host) - count == 1, "the manifest"
    build(host, context, "--no-cache")
    assert run(host, "stat -c %Y /src/text /src/big") == "1000000000\n" * 2


def test_removed_renamed_copied_and_swapped(host: Fleet, context: Path) -> None:
    build(host, context)
    deep = context / "src" / "deep"
    texts = {f"f{number}": (deep / f"f{number}").read_text() for number in range(8)}
    (deep / "f0").unlink()
    (deep / "f1").rename(deep / "renamed")
    (deep / "copied").write_text(texts["f2"])
    (deep / "f3").write_text(texts["f4"])
    (deep / "f4").write_text(texts["f3"])
    os.link(deep / "f5", deep / "linked")
    count = puts(host)
    build(host, context)
    assert puts(host) - count == 1, "the manifest"
    wanted = {path.name: path.read_text() for path in deep.iterdir()}
    script = "cd /src/deep; for f in *; do echo $f=$(cat $f); done; stat -c %h f5"
    assert run(host, script) == "".join(f"{name}={wanted[name]}\n" for name in sorted(wanted)) + "2\n"


def test_modes_links_and_directories_arrive(host: Fleet, context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY src /\n")
    for times in range(2):
        source = context / "src"
        (source / "empty").mkdir(exist_ok=True)
        (source / "empty").chmod(0o711)
        (source / "private").write_text("p")
        (source / "private").chmod(0o640 if times else 0o751)
        (source / "link").unlink(missing_ok=True)
        (source / "link").symlink_to("/etc/passwd" if times else "deep/f1")
        out = tmp_path / f"out{times}"
        build(host, context, "-o", out)
        assert sorted(os.listdir(out)) == ["big", "deep", "empty", "link", "private", "text"]
        assert (out / "private").stat().st_mode & 0o7777 == (0o640 if times else 0o751)
        assert os.readlink(out / "link") == ("/etc/passwd" if times else "deep/f1")
        assert (out / "empty").stat().st_mode & 0o777 == 0o711
        assert os.listdir(out / "empty") == []
        assert (out / "big").read_bytes() == (source / "big").read_bytes()
        if times:
            assert (out / "text/inside").read_text() == "i"
        else:
            (source / "text").unlink()
            (source / "text").mkdir()
            (source / "text" / "inside").write_text("i")


def test_an_ignore_file_and_its_change(host: Fleet, context: Path) -> None:
    (context / ".dockerignore").write_text("src/deep\n!src/deep/f1\n**/text\n")
    build(host, context)
    assert run(host, "cd /src; find . | sort").split() == [".", "./big", "./deep", "./deep/f1"]
    assert not (kept(host) / "src/text").exists()
    (context / ".dockerignore").write_text("src/deep/f[1-7]\n")
    build(host, context)
    assert run(host, "cd /src; find . | sort").split() == [".", "./big", "./deep", "./deep/f0", "./text"]


def test_a_name_that_is_not_utf8(host: Fleet, context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nCOPY src/deep /\n")
    name = b"\xff\xe9 #\n\\"
    Path(os.fsdecode(os.path.join(os.fsencode(context / "src/deep"), name))).write_text("latin")
    for out in (tmp_path / "one", tmp_path / "two"):
        count = puts(host)
        build(host, context, "-o", out)
        assert Path(os.fsdecode(os.path.join(os.fsencode(out), name))).read_text() == "latin"
        (context / "src/deep/f1").write_text(out.name)
    assert puts(host) - count == 2, "the manifest and f1"


def test_named_contexts(host: Fleet, context: Path, busybox: str, tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    for name in "abcdef":
        (more / name).write_text(f"{name} {os.urandom(8).hex()}")
    text = f"FROM {busybox}\nCOPY --from=more . /more/\nCOPY src/text /text\n"
    text += "RUN --mount=from=more,target=/m cat /m/a > /a\n"
    (context / "Dockerfile").write_text(text)
    flags = ("--build-context", f"more={more}")
    build(host, context, *flags)
    count = puts(host)
    said = build(host, context, *flags)
    assert (puts(host) - count, said.count("CACHED")) == (0, 4)
    (more / "a").write_text("changed")
    build(host, context, *flags)
    assert puts(host) - count == 2, "the manifest of one, and a file"
    assert run(host, "cat /a /more/a; ls /more").split() == ["changedchangeda", *"bcdef"]
    # One directory as both contexts.
    (more / "src").mkdir()
    (more / "src/text").write_text("both")
    build(host, more, "-f", context / "Dockerfile", *flags)
    assert run(host, "cat /text /more/src/text") == "bothboth"


def test_two_versions_at_the_same_time(host: Fleet, context: Path, busybox: str, tmp_path: Path) -> None:
    mounts = f"--mount=type=bind,target=/c --mount=type=cache,id={os.urandom(4).hex()},target=/gate"
    waiting = "cat /c/src/text > /early; echo be''gun; until [ -e /gate/open ]; do sleep 0.1; done"
    for name, script in (("waits", waiting), ("goes", "cat /c/src/text > /early"), ("opens", "touch /gate/open")):
        text = f"FROM {busybox}\nRUN {mounts} {script}; cat /c/src/text > /late\nCOPY src /src\n"
        (tmp_path / name).write_text(text)
    (context / "src/text").write_text("first\n")
    command = host.command("build", "-f", tmp_path / "waits", "-t", "first", context)
    first = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=host.environment()
    )
    try:
        assert first.stdout is not None
        while "begun" not in (line := first.stdout.readline()):
            assert line
        (context / "src/text").write_text("second\n")
        (context / "src/deep/f1").unlink()
        build(host, context, "-f", tmp_path / "goes")
        script = "cat /early /late /src/text; ls /src/deep | wc -l"
        assert run(host, script) == "second\n" * 3 + "7\n"
        build(host, context, "-f", tmp_path / "opens")
        assert "COPY" in first.communicate(timeout=120)[0]
    finally:
        first.kill()
        first.wait()
    host.shoal("tag", "first", "it")
    assert run(host, script) == "first\n" * 3 + "8\n"


def test_many_versions_at_once(host: Fleet, context: Path, tmp_path: Path) -> None:
    """They take contents and contexts from each other, and all have what is theirs."""
    versions = [shutil.copytree(context, tmp_path / f"v{number}") for number in range(8)]
    for number, version in enumerate(versions):
        (version / "src/text").write_text(f"{number}\n")
        (version / f"src/deep/f{number}").unlink()
    commands = [host.command("build", "-q", "-t", version.name, version) for version in versions]
    running = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=host.environment())
        for command in commands
    ]
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), said
    for number, version in enumerate(versions):
        host.shoal("tag", version.name, "it")
        script = "cat /src/text; ls /src/deep; md5sum < /src/big"
        digest = hashlib.md5((context / "src/big").read_bytes()).hexdigest()
        others = [f"f{other}" for other in range(8) if other != number]
        assert run(host, script).split() == [str(number), *others, digest, "-"]


def test_a_context_of_very_many_files(host: Fleet, tmp_path: Path) -> None:
    """More than one message of the daemon could name."""
    for directory in range(60):
        (tmp_path / f"d{directory}").mkdir()
        for number in range(1000):
            (tmp_path / f"d{directory}/{number}").write_text(f"{directory} {number}")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY d7/77 /\n")
    build(host, tmp_path, "-o", tmp_path / "out")
    assert (tmp_path / "out/77").read_text() == "7 77"


def test_a_daemon_that_was_killed(host: Fleet, context: Path) -> None:
    build(host, context)
    host.first.kill()
    host.first.start()
    build(host, context, "--no-cache")
    assert run(host, "cat /src/text") == (context / "src/text").read_text()
    (context / "src/text").write_text("after\n")
    host.first.kill()
    (host.first.root / "contexts" / ".new-0123").mkdir()
    host.first.start()
    build(host, context)
    assert run(host, "cat /src/text; wc -c < /src/big") == f"after\n{BIG}\n"
    assert [name for name in os.listdir(host.first.root / "contexts") if name.startswith(".")] == [".boot"]


def test_a_daemon_that_is_killed_in_the_middle(host: Fleet, context: Path) -> None:
    """Killed at any moment while a context is sent and laid out, it has a right one the next time."""
    for wait in (0.3, 0.6, 0.9):
        (context / "src/big").write_bytes(os.urandom(BIG))
        (context / "src/text").write_text(f"{wait}\n")
        started = subprocess.Popen(
            host.command("build", "-t", "it", context),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=host.environment(),
        )
        time.sleep(wait)
        host.first.kill()
        host.first.start()
        started.kill()
        started.wait()
        build(host, context)
        assert run(host, "cat /src/text") == f"{wait}\n"
        assert (kept(host) / "src/big").read_bytes() == (context / "src/big").read_bytes()


@pytest.mark.parametrize("junk", ["text", "nested", "no digests", "wrong digests"])
def test_what_the_client_remembers_may_be_lost_or_junk(host: Fleet, context: Path, tmp_path: Path, junk: str) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    directory = tmp_path / "cache" / "shoal" / "contexts"
    time.sleep(2.2)  # younger files are not remembered
    build(host, context, env=env)
    (file,) = directory.iterdir()
    known = json.loads(file.read_bytes())
    assert set(known) == {"Dockerfile", "src/big", "src/text", *(f"src/deep/f{number}" for number in range(8))}
    states = {
        "text": [
            b"",
            b"junk",
            b"\xff\xfe",
            b"[]",
            b"null",
            b'{"src/text": 1}',
            b'{"src/text": [1, 2, 3]}',
            b"0" * 9999,
        ],
        "nested": [b"[" * 200_000],
        "no digests": [json.dumps({name: [*state[:4], None] for name, state in known.items()}).encode()],
        "wrong digests": [json.dumps({name: [*state[:4], "0" * 64] for name, state in known.items()}).encode()],
    }
    for content in states[junk]:
        file.write_bytes(content)
        (context / "src/deep/f1").write_text(os.urandom(8).hex())
        build(host, context, env=env)
        for name in ("text", "deep/f1"):
            assert run(host, f"cat /src/{name}") == (context / "src" / name).read_text(), content[:99]
    count = puts(host)
    file.unlink()
    build(host, context, env=env)
    file.unlink()
    file.mkdir()
    build(host, context, env=env)
    assert puts(host) == count


def test_a_change_that_size_and_time_do_not_tell(host: Fleet, context: Path) -> None:
    time.sleep(2.2)
    build(host, context)
    text, found = context / "src/text", (context / "src/text").stat()
    for change in ("x", "y"):
        text.write_text(change * (found.st_size - 1) + "\n")
        os.utime(text, ns=(found.st_atime_ns, found.st_mtime_ns))
        build(host, context)
        assert run(host, "cat /src/text") == text.read_text()


def test_contexts_are_listed_and_pruned(host: Fleet, context: Path) -> None:
    host.shoal("builder", "prune", "-af")
    build(host, context)
    (row,) = [row for row in host.json("builder", "du") if row["Kind"] == "context"]
    assert row["ID"] == kept(host).parent.name
    assert "context" in host.shoal("builder", "du").stdout
    host.shoal("builder", "prune", "-af")
    assert host.json("builder", "du") == []
    assert [name for name in os.listdir(host.first.root / "contexts") if name != ".boot"] == []
    assert "Sending (3MB)" in build(host, context)
    assert run(host, "cat /src/text") == (context / "src/text").read_text()


def test_what_a_step_writes_is_not_kept(host: Fleet, context: Path, busybox: str) -> None:
    script = "echo bad > /c/src/text; rm /c/src/big; touch /c/new; chmod 777 /c/src/deep; cat /c/src/text > /seen"
    text = f"FROM {busybox}\nRUN --mount=type=bind,target=/c,rw {script}\nCOPY . /all\n"
    (context / "Dockerfile").write_text(text)
    for _ in range(2):
        build(host, context, "--no-cache")
        assert run(host, "cat /seen /all/src/text; ls /all /all/src").split() == [
            "bad", (context / "src/text").read_text().strip(), "/all:", "Dockerfile", "src", "/all/src:", "big", "deep",
            "text",
        ]  # fmt: skip
        assert (kept(host) / "src/big").read_bytes() == (context / "src/big").read_bytes()
        assert (kept(host) / "src/deep").stat().st_mode & 0o777 == (context / "src/deep").stat().st_mode & 0o777


def test_who_may_send_contexts(host: Fleet, context: Path) -> None:
    certificate, key = host.user("op", Role.OPERATOR)
    host.add_host("h1-op", host.first.address, cert=str(certificate), key=str(key))
    try:
        assert "Sending (3MB)" in build(host, context, "-H", "h1-op")
        assert run(host, "cat /src/text") == (context / "src/text").read_text()
    finally:
        host.remove_host("h1-op")
    certificate, key = host.user("viewer", Role.READER)
    ca = (host.directory / "pki" / "ca.pem").read_bytes()
    credentials = grpc.ssl_channel_credentials(ca, key.read_bytes(), certificate.read_bytes())
    with grpc.secure_channel(host.first.address, credentials) as channel:
        request = file_pb2.FileServicePrepareContextRequest(digest=f"sha256:{kept(host).parent.name}")
        with pytest.raises(grpc.RpcError) as caught:
            FileServiceStub(channel).PrepareContext(request, timeout=60)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_fifos_arrive_and_sockets_stay_out(host: Fleet, context: Path) -> None:
    source = context / "src"
    os.mkfifo(source / "pipe")
    (source / "pipe").chmod(0o640)
    sockets = [socket.socket(socket.AF_UNIX) for _ in range(7)]
    with contextlib.ExitStack() as stack:
        for number, each in enumerate(sockets):
            stack.enter_context(each).bind(os.path.relpath(source / f"s{number}"))
        said = build(host, context)
        warning = "sockets and devices of the build context stay out: src/s0, src/s1, src/s2, src/s3, src/s4, 2 more\n"
        assert said.count("stay out") == 1
        assert warning in said
        assert run(host, "stat -c '%F %a' /src/pipe; ls /src") == "fifo 640\nbig\ndeep\npipe\ntext\n"
        assert "CACHED" in build(host, context)
        (source / "pipe").unlink()
        (source / "pipe").write_text("a file")
        os.mkfifo(source / "other")
        build(host, context)
        assert run(host, "cat /src/pipe; stat -c ' %F' /src/other") == "a file fifo\n"
        (context / ".dockerignore").write_text("**/s?\n")
        assert "stay out" not in build(host, context)


def test_a_fifo_in_an_archive(host: Fleet, context: Path, tmp_path: Path) -> None:
    archive = tmp_path / "context.tar"
    os.mkfifo(context / "src/pipe")
    subprocess.run(["tar", "-C", str(context), "-cf", str(archive), "."], check=True)
    command = host.command("build", "-t", "it", "-")
    with archive.open("rb") as file:
        subprocess.run(command, stdin=file, env=host.environment(), check=True, timeout=120)
    assert run(host, "stat -c %F /src/pipe") == "fifo\n"
