"""Build contexts, the course of a build, and its errors."""

from __future__ import annotations

import gzip
import io
import os
import socket
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shoal.errors import FailedPrecondition, InvalidArgument
from shoal.manifest import parsed
from shoal.v1 import image_pb2, types_pb2
from shoalctl.app import run
from shoalctl.flags.dockerfile import external_domain
from shoalctl.fleet.context import CHUNK, BuildContext
from tests.support.fake_daemon import CREATED, Certificates, FakeDaemon, at, image

Event = image_pb2.BuildEvent


def members(chunks: Iterator[bytes]) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks)), mode="r:") as archive:
        return archive.getmembers()


def names(root: Path) -> list[str]:
    return [member.name for member in members(BuildContext.at(root).chunks())]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "context"
    root.mkdir()
    (root / "Dockerfile").write_text("FROM busybox\n\nRUN false \\\n  && true\nCOPY . .\n")
    return root


def test_a_context_is_sorted_owned_by_root_and_follows_nothing(root: Path) -> None:
    (root / "b").mkdir(mode=0o750)
    (root / "b" / "file").write_bytes(b"x" * 700)
    (root / "b" / "file").chmod(0o4755)
    os.utime(root / "b" / "file", ns=(1, 1_700_000_000_999_999_999))
    (root / "a-link").symlink_to("/etc/passwd")
    (root / "b-dir-link").symlink_to("b")
    os.link(root / "b" / "file", root / "z-hard")
    got = {member.name: member for member in members(BuildContext.at(root).chunks())}
    assert list(got) == ["Dockerfile", "a-link", "b", "b/file", "b-dir-link", "z-hard"]
    assert all((member.uid, member.gid, member.uname) == (0, 0, "") for member in got.values())
    assert (got["b/file"].mode, got["b/file"].mtime, got["b/file"].size) == (0o4755, 1_700_000_000, 700)
    assert (got["a-link"].type, got["a-link"].linkname) == (tarfile.SYMTYPE, "/etc/passwd")
    assert (got["z-hard"].type, got["z-hard"].linkname) == (tarfile.LNKTYPE, "b/file")
    assert got["b"].isdir()


def test_the_same_context_gives_the_same_bytes(root: Path) -> None:
    (root / "f").write_bytes(os.urandom(3 * CHUNK + 17))
    context = BuildContext.at(root)
    first = list(context.chunks())
    assert b"".join(first) == b"".join(context.chunks())
    assert max(map(len, first)) <= CHUNK + 2 * tarfile.BLOCKSIZE
    assert len(first) >= 3


def test_ignored_files_stay_out_but_exceptions_come_with_their_directories(root: Path) -> None:
    for path in ("keep/a", "out/x", "out/deep/keep", "out/deep/no", "c.log"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    (root / ".dockerignore").write_text("# no\nout\n!out/deep/keep\n*.log\nDockerfile\n")
    assert names(root) == [".dockerignore", "keep", "keep/a", "out", "out/deep", "out/deep/keep"]


def test_a_dockerfile_may_have_its_own_ignore_file(root: Path) -> None:
    (root / "a").write_text("a")
    (root / ".dockerignore").write_text("b\n")
    (root / "b").write_text("b")
    (root / "other.Dockerfile").write_text("FROM x")
    (root / "other.Dockerfile.dockerignore").write_text("a\n*Dockerfile*\n.dockerignore\n")
    context = BuildContext.at(root, root / "other.Dockerfile")
    assert [member.name for member in members(context.chunks())] == ["b"]


def test_long_and_strange_names(root: Path) -> None:
    strange = os.fsdecode(b"\xff\xfe name")
    deep = root / ("d" * 200) / ("e" * 200)
    deep.mkdir(parents=True)
    (deep / "ü").write_text("x")
    (root / strange).write_text("y")
    assert {"d" * 200 + "/" + "e" * 200 + "/ü", strange} <= set(names(root))


def test_sockets_are_skipped_and_named(root: Path) -> None:
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(root / "socket"))
        context = BuildContext.at(root)
        assert [(member.name, member.type) for member in members(context.chunks())] == [
            ("Dockerfile", tarfile.REGTYPE),
            ("fifo", tarfile.FIFOTYPE),
        ]
        assert context.skipped == {"socket"}


def test_an_unreadable_file_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "secret").write_text("x")
    real = os.open

    def refuse(path: str, *rest: int) -> int:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest)

    monkeypatch.setattr("shoalctl.fleet.context.os.open", refuse)
    with pytest.raises(FailedPrecondition, match="secret of the build context: Permission denied"):
        list(BuildContext.at(root).chunks())


def test_a_context_must_be_a_directory(root: Path) -> None:
    with pytest.raises(InvalidArgument):
        BuildContext.at(root / "Dockerfile")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("FROM busybox", "docker.io"),
        ("FROM ghcr.io/a/b AS x\nFROM x\nCOPY --from=x / /\nCOPY --from=0 / /", "ghcr.io"),
        ("from --platform=linux/amd64 ghcr.io/a/b\nRUN --mount=type=bind,from=ghcr.io/c/d true", "ghcr.io"),
        ("FROM scratch", None),
        ("FROM busybox\nFROM ghcr.io/a/b", None),
        ("FROM busybox\nCOPY --from=evil.example/x / /", None),
        ("ARG R\nFROM $R/x", None),
        ("FROM ${R:-ghcr.io}/x", None),
    ],
)
def test_credentials_go_only_where_it_is_certain(text: str, wanted: str | None) -> None:
    assert external_domain(text.encode()) == wanted


# -- the command -----------------------------------------------------------------------------------------------------

Shoal = Callable[..., tuple[int, str, str]]


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    certificates = Certificates.make(tmp_path / "pki")
    with FakeDaemon(certificates) as daemon:
        (tmp_path / "config.toml").write_text(certificates.config("h1", daemon.port))
        monkeypatch.setenv("SHOAL_CONFIG", str(tmp_path / "config.toml"))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "none"))
        monkeypatch.delenv("SHOAL_HOSTS", raising=False)
        yield daemon


@pytest.fixture
def shoal(capfd: pytest.CaptureFixture[str]) -> Shoal:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        sys.stdout.flush()
        return code, *capfd.readouterr()

    return call


def sent_names(daemon: FakeDaemon) -> list[str]:
    """Of the files of the main context, which came as an archive or by manifest."""
    digest = daemon.requests("Build")[-1].start.context_manifests.get("")
    if digest:
        return [entry.path for entry in parsed(daemon.blobs[digest])]
    return [member.name for member in members(iter(daemon.requests("context")))]


def steps(error: str = "") -> list[Event]:
    step = Event.StepStarted(
        step_id="s", stage="build", number=2, total=3, text="RUN false \\\n  && true", start_line=3
    )
    return [
        Event(cursor=1, time=at(CREATED), step_started=step),
        Event(cursor=2, time=at(CREATED + 0.5), step_log=Event.StepLog(step_id="s", data=b"one\ntw")),
        Event(cursor=3, time=at(CREATED + 0.75), step_log=Event.StepLog(step_id="s", data=b"o\n")),
        Event(cursor=4, time=at(CREATED + 1), step_finished=Event.StepFinished(step_id="s", error=error)),
    ]


LINES = """\
#1 [build 2/3] RUN false && true
#1 0.500 one
#1 0.750 two
#1 DONE 1.0s
"""


def test_build(shoal: Shoal, daemon: FakeDaemon, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "own")
    daemon.build_events = steps()
    code, out, err = shoal(
        "build", "-t", "a:1", "-t", "b", "--build-arg", "X=1", "--build-arg", "MINE", "--build-arg", "GONE", "--target",
        "build", "--no-cache", "--pull", "--label", "k=v", "--platform", "arm64", "--iidfile", str(tmp_path / "iid"),
        str(root),
    )  # fmt: skip
    assert (code, out, err) == (0, "sha256:" + "1" * 64 + "\n", LINES)
    assert (tmp_path / "iid").read_text() == "sha256:" + "1" * 64
    start = daemon.requests("Build")[0].start
    assert start.dockerfile == (root / "Dockerfile").read_bytes()
    assert (list(start.tags), dict(start.build_args)) == (["a:1", "b"], {"X": "1", "MINE": "own"})
    assert (start.target, start.no_cache, start.pull, start.platform.architecture) == ("build", True, True, "arm64")
    assert sent_names(daemon) == ["Dockerfile"]


def test_a_lost_link_is_followed_with_no_gap_and_no_duplicate(shoal: Shoal, daemon: FakeDaemon, root: Path) -> None:
    daemon.build_events = steps()
    daemon.breaks = {"Build": 1}
    assert shoal("build", str(root))[::2] == (0, LINES)
    follow = daemon.requests("FollowBuild")[0]
    assert (follow.request_id, follow.cursor) == (daemon.requests("Build")[-1].start.request_id, 1)


def test_an_error_shows_the_lines_of_the_dockerfile(shoal: Shoal, daemon: FakeDaemon, root: Path) -> None:
    daemon.build_events = steps("exit code 1")
    daemon.trouble["BuildEnd"] = FailedPrecondition(
        "RUN failed: exit code 1", reason="BUILD_STEP_FAILED", metadata={"start_line": "3", "end_line": "4"}
    )
    code, out, err = shoal("build", str(root))
    assert (code, out) == (1, "")
    assert "#1 ERROR: exit code 1\nDockerfile:3\n" in err
    assert "   4 | >>>   && true\n             ^^^^^^^\n   5 |     COPY . .\n" in err
    assert "shoal: h1: RUN failed: exit code 1\n  hint: look at the state before it: shoal build --debug\n" in err


def test_a_refusal_before_the_context_is_sent(shoal: Shoal, daemon: FakeDaemon, root: Path) -> None:
    daemon.trouble["Build"] = InvalidArgument(
        "unknown instruction: RUNN", metadata={"start_line": "3", "end_line": "3"}
    )
    (root / "big").write_bytes(bytes(20 * CHUNK))
    code, _, err = shoal("build", str(root))
    assert code == 1
    assert "shoal: h1: unknown instruction: RUNN" in err


def test_an_unreadable_context_is_the_error_that_is_told(
    shoal: Shoal, daemon: FakeDaemon, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: BuildContext) -> Iterator[tuple[str, str, os.stat_result]]:
        raise FailedPrecondition("can't read x of the build context")

    monkeypatch.setattr(BuildContext, "files", broken)
    code, _, err = shoal("build", str(root))
    assert (code, err) == (1, "shoal: h1: can't read x of the build context\n")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_archive_on_standard_input(
    pack: Callable[[bytes], bytes], shoal: Shoal, daemon: FakeDaemon, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = b"".join(BuildContext.at(root).chunks())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pack(archive))))
    assert shoal("build", "-q", "-")[0] == 0
    assert daemon.requests("Build")[0].start.dockerfile == (root / "Dockerfile").read_bytes()
    assert b"".join(daemon.requests("context")) == archive


def test_a_dockerfile_on_standard_input(
    shoal: Shoal, daemon: FakeDaemon, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, names in ((["-"], []), (["-f", "-", str(root)], ["Dockerfile"])):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"FROM scratch\n")))
        daemon.asked.clear()
        assert shoal("build", "-q", *arguments)[0] == 0
        assert daemon.requests("Build")[0].start.dockerfile == b"FROM scratch\n"
        assert sent_names(daemon) == names


def test_json_and_quiet(shoal: Shoal, daemon: FakeDaemon, root: Path) -> None:
    import json

    daemon.build_events = steps()
    _, out, err = shoal("build", "--progress", "json", str(root))
    assert [json.loads(line).get("event") for line in out.splitlines()[:-1]] == [
        "started",
        "output",
        "output",
        "finished",
    ]
    assert err == ""
    assert shoal("build", "-q", str(root))[1:] == ("sha256:" + "1" * 64 + "\n", "")
    assert " => [build 2/3] RUN false && true" in shoal("build", "--progress", "tty", str(root))[2]


def test_credentials_say_which_registry_they_are_for(shoal: Shoal, daemon: FakeDaemon, root: Path) -> None:
    (root / "Dockerfile").write_text("FROM ghcr.io/a/b\n")
    assert shoal("build", "--creds", "ada:secret", str(root))[0] == 0
    given = daemon.requests("Build")[0].start.credentials
    assert (given.username, given.password, given.registry) == ("ada", "secret", "ghcr.io")


def test_credentials_for_nobody_in_particular_are_refused(shoal: Shoal, daemon: FakeDaemon, root: Path) -> None:
    (root / "Dockerfile").write_text("FROM ghcr.io/a/b\nCOPY --from=evil.example/x / /\n")
    code, _, err = shoal("build", "--creds", "ada:secret", str(root))
    assert code != 0
    assert "shoal pull --creds" in err
    assert not daemon.requests("Build")


@pytest.mark.parametrize("flags", [("--platform", "linux/amd64,linux/arm64"), ("--sbom",), ("--provenance=true",)])
def test_an_older_daemon_builds_one_image_only(
    daemon: FakeDaemon, shoal: Shoal, root: Path, flags: tuple[str, ...]
) -> None:
    code, out, err = shoal("build", *flags, "-t", "r.test/app:1", "--push", str(root))
    assert code == 1
    assert out == ""
    assert "its version is older" in err
    assert "update shoald there" in err
    assert not daemon.requests("Push")


def test_platforms_of_a_host_are_no_paths(daemon: FakeDaemon, shoal: Shoal, root: Path, tmp_path: Path) -> None:
    other = image("a", platform=types_pb2.Platform(os="x/../../..", architecture="outside"))
    daemon.index = image_pb2.ImageServiceInspectIndexResponse(digest="sha256:" + "4" * 64, images=[image("a"), other])
    place = tmp_path / "deep/out"
    code, _, err = shoal("build", "--platform", "linux/amd64,linux/arm64", "-o", str(place), str(root))
    assert code == 1
    assert "invalid platform" in err
    assert [each.name for each in place.iterdir()] == ["linux_amd64"]
    assert [each.name for each in place.parent.iterdir()] == ["out"]
