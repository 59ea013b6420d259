"""What a build gets beside its context: secrets, named contexts, writable mounts; and where its result can go."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shoal.pki import Role
from tests.support.daemon import Fleet

SECRET = "s3cr3t-of-the-build"


def build(host: Fleet, directory: Path, text: str, *flags: str, code: int = 0) -> str:
    """Build `text` as the image `it`; all that was printed."""
    directory.mkdir(exist_ok=True, parents=True)
    (directory / "Dockerfile").write_text(text)
    done = host.shoal("build", "-t", "it", *flags, directory, code=code)
    return done.stdout + done.stderr


def run(host: Fleet, *command: str) -> str:
    return host.shoal("run", "--rm", "it", *command).stdout


def test_secrets_come_as_files_and_variables_and_stay_nowhere(host: Fleet, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "value").write_text(SECRET)
    text = f"""FROM {busybox}
RUN --mount=type=secret,id=token cat /run/secrets/token | md5sum > /sum; stat -c '%a %u:%g' /run/secrets/token > /mode
RUN --mount=type=secret,id=token,target=/deep/er/file,uid=7,gid=8,mode=0440 stat -c '%a %u:%g' /deep/er/file > /mode2
RUN --mount=type=secret,id=token,env=TOKEN test ! -e /run/secrets/token && echo $TOKEN | md5sum > /sum2
RUN --mount=type=secret,id=missing ls /run/secrets/missing || echo none > /none
USER 1000:1000
RUN --mount=type=secret,id=token cat /run/secrets/token || echo refused
"""
    flags = ("--secret", f"id=token,src={tmp_path / 'value'}")
    said = build(host, tmp_path / "c", text, *flags)
    assert "refused" in said
    assert run(host, "cat", "/mode", "/mode2", "/none") == "400 0:0\n440 7:8\nnone\n"
    assert run(host, "sh", "-c", "ls -d /run/secrets /deep 2>/dev/null || echo none") == "none\n"
    # Another value is no other step; and the daemon's files hold it nowhere.
    again = subprocess.run(
        host.command("build", "-t", "it", "--secret", "id=token,env=TOKEN_OF_TEST", str(tmp_path / "c")),
        capture_output=True,
        text=True,
        env={**host.environment(), "TOKEN_OF_TEST": SECRET + "-2"},
    )
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("CACHED") >= 5
    found = subprocess.run(["grep", "-rlF", SECRET, str(host.first.root)], capture_output=True, text=True)
    assert found.stdout == ""
    assert SECRET not in host.first.log()
    assert SECRET not in json.dumps(host.json("inspect", "it"))


def test_a_required_secret_that_is_missing_and_bad_flags(host: Fleet, busybox: str, tmp_path: Path) -> None:
    text = f"FROM {busybox}\nRUN --mount=type=secret,id=token,required=true true\n"
    said = build(host, tmp_path, text, code=1)
    assert "secret token: not found" in said
    assert "--secret id=token" in said
    assert "Dockerfile:2" in said
    for flags, word in (
        (("--secret", "src=x"), "id=NAME is missing"),
        (("--secret", "id=a,src=/does/not/exist"), "can't read"),
        (("--build-context", "x"), "NAME=DIRECTORY"),
        (("--build-context", "x=/does/not/exist"), "not a directory"),
        (("--build-context", "x=docker-image://UPPER"), "invalid"),
        (("-o", "type=what,dest=x"), "there is no type"),
        (("-o", "type=local"), "dest=PATH"),
    ):
        assert word in build(host, tmp_path, text, *flags, code=2)


def test_a_writable_bind_is_thrown_away(host: Fleet, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/f").write_text("as it was\n")
    text = f"""FROM {busybox} AS made
RUN mkdir /d && echo stage > /d/f
FROM {busybox}
RUN --mount=type=bind,source=src,target=/m,rw echo x > /m/f && echo y > /m/new && cat /m/f > /a
RUN --mount=type=bind,from=made,source=/d,target=/m,rw echo z >> /m/f && cat /m/f > /b
RUN --mount=type=bind,source=src,target=/m ls /m > /c && cat /m/f >> /c
RUN --mount=type=bind,source=src,target=/m touch /m/x || echo read-only > /d
"""
    build(host, tmp_path, text)
    assert run(host, "cat", "/a", "/b", "/c", "/d") == "x\nstage\nz\nf\nas it was\nread-only\n"


def test_a_cache_from_a_stage(host: Fleet, busybox: str, tmp_path: Path) -> None:
    text = f"""FROM {busybox} AS made
RUN mkdir /d && echo first > /d/f
FROM {busybox}
RUN --mount=type=cache,from=made,source=/d,target=/m cat /m/f > /a && echo more >> /m/f
RUN --mount=type=cache,from=made,source=/d,target=/m cat /m/f > /b
"""
    build(host, tmp_path, text)
    assert run(host, "cat", "/a", "/b") == "first\nfirst\nmore\n"


def test_named_contexts(host: Fleet, busybox: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub/f").write_text(f"{name}\n")
        (tmp_path / name / "ignored").touch()
        (tmp_path / name / ".dockerignore").write_text("ignored\n")
    text = """FROM base AS start
RUN --mount=type=bind,from=one,target=/m cat /m/sub/f > /bound
FROM two AS files
FROM replaced AS replaced
RUN echo never runs; false
FROM start
COPY --from=one sub/f /copied
COPY --from=two / /all/
COPY --from=files /sub/f /from-stage
COPY --from=replaced /bin/busybox /bb
"""
    flags = ["--build-context", f"base=docker-image://{busybox}"]
    flags += ["--build-context", f"one={tmp_path / 'one'}", "--build-context", f"TWO={tmp_path / 'two'}"]
    flags += ["--build-context", f"replaced=docker-image://{busybox}"]
    build(host, tmp_path / "c", text, *flags)
    assert run(host, "cat", "/bound", "/copied", "/from-stage", "/all/sub/f") == "one\none\ntwo\ntwo\n"
    assert "ignored" not in run(host, "find", "/all").split("/")
    assert build(host, tmp_path / "c", text, *flags).count("CACHED") >= 5
    (tmp_path / "one/sub/f").write_text("changed\n")
    build(host, tmp_path / "c", text, *flags)
    assert run(host, "cat", "/bound", "/copied") == "changed\nchanged\n"
    # A stage that is a directory is an image of its own.
    build(host, tmp_path / "c", "FROM two\nLABEL a=b\n", *flags)
    assert len(host.json("inspect", "it")[0]["RootFS"]["Layers"]) == 1


@pytest.mark.parametrize("flags", [("-o", "{out}"), ("--output", "type=local,dest={out}")])
def test_output_to_a_directory(host: Fleet, busybox: str, tmp_path: Path, flags: tuple[str, str]) -> None:
    out = tmp_path / "out"
    text = f"FROM {busybox} AS b\nRUN echo hi > /f && chmod 640 /f\nFROM scratch\nCOPY --from=b /f /bin/busybox /d/\n"
    build(host, tmp_path / "c", text, flags[0], flags[1].format(out=out))
    assert (out / "d/f").read_text() == "hi\n"
    assert (out / "d/f").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in (out / "d").iterdir()) == ["busybox", "f"]
    assert host.shoal("ps", "-aq").stdout == ""


def test_output_as_a_tar_and_to_a_registry(host: Fleet, busybox: str, tmp_path: Path) -> None:
    text = f"FROM {busybox}\nRUN echo hi > /f\n"
    build(host, tmp_path / "c", text, "-o", f"type=tar,dest={tmp_path / 'it.tar'}")
    with tarfile.open(tmp_path / "it.tar") as archive:
        assert any(name.removeprefix("./") == "f" for name in archive.getnames())
    done = subprocess.run(
        host.command("build", "-q", "-o", "-", str(tmp_path / "c")), capture_output=True, env=host.environment()
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert any(name.removeprefix("./") == "f" for name in archive.getnames())
    name = f"{busybox.split('/')[0]}/pushed:1"
    build(host, tmp_path / "c", text, "-o", f"type=image,name={name},push=true")
    host.shoal("build", "-t", name, "--push", "--load", tmp_path / "c")
    host.shoal("rmi", name)
    host.shoal("pull", name)
    assert host.shoal("run", "--rm", name, "cat", "/f").stdout == "hi\n"


def test_source_date_epoch_is_the_time_of_what_a_build_adds(host: Fleet, busybox: str, tmp_path: Path) -> None:
    text = f"FROM {busybox}\nRUN echo epoch > /f\nLABEL a=b\n"
    said = build(host, tmp_path / "c", text, "--build-arg", "SOURCE_DATE_EPOCH=1000000000")
    assert "not consumed" not in said
    (found,) = host.json("inspect", "it")
    assert found["Created"].startswith("2001-09-09T01:46:40")
    build(host, tmp_path / "c", text, "--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000000")
    assert host.json("inspect", "it")[0]["Created"].startswith("2001-09-09T01:46:40")
    assert "no number of seconds" in build(host, tmp_path / "c", text, "--build-arg", "SOURCE_DATE_EPOCH=x", code=1)


def test_names_for_run_steps(host: Fleet, busybox: str, tmp_path: Path) -> None:
    text = f"FROM {busybox}\nRUN grep -c 10.1.2.3.*nice /etc/hosts > /f\n"
    for flag in ("nice:10.1.2.3", "nice=10.1.2.3"):
        build(host, tmp_path / "c", text, "--no-cache", "--add-host", flag)
    assert run(host, "cat", "/f") == "1\n"
    build(host, tmp_path / "c", text, code=1)
    assert "add-host" in build(host, tmp_path / "c", text, "--add-host", "x", code=1)


def test_the_cache_is_listed_and_pruned(host: Fleet, busybox: str, tmp_path: Path) -> None:
    host.shoal("builder", "prune", "-af")
    text = f"""FROM {busybox} AS other
RUN head -c 3000000 /dev/urandom > /big
FROM {busybox}
COPY --from=other /big /copy
RUN --mount=type=cache,id=of-test,target=/c head -c 2000000 /dev/urandom > /c/f
"""
    build(host, tmp_path / "c", text)
    rows = host.json("builder", "du", "--format", "json")
    kinds = {row["Description"]: (row["Kind"], row["Shared"]) for row in rows}
    assert kinds["cache mount of-test"] == ("mount", False)
    assert kinds["RUN head -c 3000000 /dev/urandom > /big"] == ("layer", False)
    assert kinds["COPY --from=other /big /copy"] == ("layer", True)
    assert "RECLAIMABLE" in host.shoal("builder", "du").stdout
    host.shoal("builder", "prune", "-f", "--filter", "until=1h")
    assert len(host.json("builder", "du", "--format", "json")) == len(rows)
    host.shoal("builder", "prune", "-f", "--keep-storage", "1g")
    assert len(host.json("builder", "du", "--format", "json")) == len(rows)
    assert "the build cache" in host.shoal("builder", "prune", code=2).stderr
    said = host.shoal("builder", "prune", "-f").stdout
    assert "Total reclaimed space: 5" in said
    left = host.json("builder", "du", "--format", "json")
    assert left
    assert all(row["Shared"] for row in left)
    host.shoal("builder", "prune", "-af")
    assert host.json("builder", "du", "--format", "json") == []
    assert run(host, "stat", "-c", "%s", "/copy") == "3000000\n"
    build(host, tmp_path / "c", text)


def test_a_build_goes_on_without_its_client(host: Fleet, busybox: str, tmp_path: Path) -> None:
    context = tmp_path / "c"
    text = f"FROM {busybox}\nRUN echo begun; while [ ! -e /tmp/never ]; do sleep 0.1; done\n"
    context.mkdir()
    (context / "Dockerfile").write_text(text)
    (request_id,) = host.shoal("build", "--detach", "-t", "endless", context).stdout.split()
    (row,) = [row for row in host.json("builder", "ls", "--format", "json") if row["ID"] == request_id]
    assert (row["State"], row["Name"]) == ("running", "endless:latest")
    deadline = time.monotonic() + 20
    while "begun" not in (said := host.shoal("build", "logs", request_id[:12]).stderr) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert "begun" in said
    assert host.shoal("build", "cancel", request_id).stdout == f"{request_id}\n"
    (row,) = [row for row in host.json("build", "list", "--format", "json") if row["ID"] == request_id]
    assert row["State"] == "cancelled"
    (context / "Dockerfile").write_text(f"FROM {busybox}\nRUN sleep 1; echo at last\n")
    (request_id,) = host.shoal("build", "--detach", "-t", "later", context).stdout.split()
    done = host.shoal("build", "attach", request_id)
    assert "at last" in done.stderr
    assert done.stdout.strip() == host.json("inspect", "later")[0]["Id"]
    (context / "Dockerfile").write_text(f"FROM {busybox}\nRUN exit 7\n")
    (request_id,) = host.shoal("build", "--detach", context).stdout.split()
    assert "exit code: 7" in host.shoal("build", "attach", request_id, code=1).stderr
    assert "no build" in host.shoal("builder", "attach", "feedfeed", code=1).stderr
    assert "--detach leaves" in host.shoal("build", "--detach", "-o", "x", context, code=2).stderr


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A real agent with one key; the environment that leads to it."""
    sock = tmp_path / "agent.sock"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(sock)], stdout=subprocess.DEVNULL) as process:
        try:
            while not sock.exists():
                time.sleep(0.02)
            env = {**os.environ, "SSH_AUTH_SOCK": str(sock)}
            key = tmp_path / "key"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of-the-test", "-f", key], check=True)
            subprocess.run(["ssh-add", "-q", key], check=True, env=env)
            yield env
        finally:
            process.terminate()


def _with_libraries(program: str, root: Path) -> None:
    """A program of this machine and what it loads, below `root`."""
    loaded = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for path in (program, *(word for word in loaded.split() if word.startswith("/"))):
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def test_a_lent_ssh_agent(host: Fleet, busybox: str, tmp_path: Path, agent: dict[str, str]) -> None:
    context = tmp_path / "c"
    _with_libraries("/usr/bin/ssh-add", context / "root")
    text = f"""FROM {busybox}
COPY root/ /
RUN --mount=type=ssh /usr/bin/ssh-add -L > /keys; ls -l $SSH_AUTH_SOCK | cut -c1-10 > /mode
RUN test -z "$SSH_AUTH_SOCK" && test ! -e /run/buildkit
"""
    (context / "Dockerfile").write_text(text)
    env = {**host.environment(), "SSH_AUTH_SOCK": agent["SSH_AUTH_SOCK"]}
    built = subprocess.run(
        host.command("build", "-t", "it", "--ssh", "default", str(context)), capture_output=True, text=True, env=env
    )
    assert built.returncode == 0, built.stderr
    assert "of-the-test" in run(host, "cat", "/keys")
    assert run(host, "cat", "/mode") == "srw-------\n"
    # Without it the step runs as if there were none; one that needs it says so.
    build(host, context, f'FROM {busybox}\nRUN --mount=type=ssh test -z "$SSH_AUTH_SOCK"\n')
    said = build(host, context, f"FROM {busybox}\nRUN --mount=type=ssh,required=true true\n", code=1)
    assert "--ssh default" in said
    assert "no agent runs here" in build(host, context, text, "--ssh", "default", code=2)


def test_a_shell_in_the_state_before_a_step_that_fails(host: Fleet, busybox: str, tmp_path: Path) -> None:
    directory = tmp_path / "c"
    text = f"""FROM {busybox} AS base
ARG GREETING
ENV KEPT=kept
WORKDIR /here
RUN echo before > file
RUN echo after > file \\
 && test -e /nowhere
FROM base
RUN echo never
"""
    assert "hint: look at the state before it: shoal build --debug" in build(host, directory, text, code=1)
    before = host.shoal("images", "-q").stdout
    done = subprocess.run(
        host.command("build", "--debug", "--build-arg", "GREETING=hello", "-t", "never", str(directory)),
        input="pwd; cat file; echo $KEPT $GREETING; exit 7\n",
        capture_output=True,
        text=True,
        env=host.environment(),
    )
    assert (done.returncode, done.stdout) == (1, "/here\nbefore\nkept hello\n"), done.stderr
    assert "a shell on h1, before line 6" in done.stderr
    assert host.shoal("images", "-q").stdout == before
    assert host.shoal("ps", "-aq").stdout == ""


def test_the_same_image_at_another_time(host: Fleet, busybox: str, tmp_path: Path) -> None:
    """SOURCE_DATE_EPOCH with --rewrite-timestamp; and what is shared with the context keeps its own time there."""
    directory = tmp_path / "c"
    directory.mkdir()
    (directory / "file").write_text("file")
    text = f"""FROM {busybox}
COPY file /file
WORKDIR /a/b
RUN mkdir d && echo x > d/e && ln -s e d/f && rm /bin/[
"""
    flags = ("--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000000")
    plain = build(host, directory, text, "-q", *flags).strip()
    first = str(int((directory / "file").stat().st_mtime))
    ids = []
    for _ in range(2):
        ids.append(build(host, directory, text, "-q", "--rewrite-timestamp", *flags).strip())
        time.sleep(1.1)
        (directory / "file").touch()
    assert ids[0] == ids[1]
    assert ids[0] != plain
    told = run(host, "stat", "-c", "%Y %n", "/file", "/a", "/a/b", "/a/b/d", "/a/b/d/e", "/a/b/d/f")
    assert {line.split()[0] for line in told.splitlines()} == {"1000000000"}
    build(host, directory, f"FROM {busybox}\nCOPY file /file\n")
    assert run(host, "stat", "-c", "%Y", "/file").strip() == first
    build(host, directory, text, "-q", "-o", "type=image,rewrite-timestamp=true", *flags)
    assert "needs SOURCE_DATE_EPOCH" in build(host, directory, text, "--rewrite-timestamp", code=2)
    build(host, directory, text, "-o", "type=image,rewrite-timestamp=true", code=2)


def test_rights_that_a_build_allows(host: Fleet, busybox: str, tmp_path: Path) -> None:
    directory = tmp_path / "c"
    insecure = f"FROM {busybox}\nRUN --security=insecure mkdir /m && mount -t tmpfs none /m && echo yes > /can\n"
    said = build(host, directory, insecure, code=1)
    assert "RUN --security=insecure is not allowed" in said
    assert "--allow security.insecure" in said
    build(host, directory, insecure, "--allow", "security.insecure")
    assert run(host, "cat", "/can") == "yes\n"
    assert "not allowed" in build(host, directory, insecure, code=1), "what is in the cache is no right"
    device = f"FROM {busybox}\nRUN --device=example.com/none=x ls /dev > /devices\n"
    assert "RUN --device is not allowed" in build(host, directory, device, code=1)
    build(host, directory, device, "--allow", "device,network.host")
    required = device.replace("=x", "=x,required")
    assert "example.com/none" in build(host, directory, required, "--allow", "device", code=1)
    network = f"FROM {busybox}\nRUN --network=host ls /sys/class/net > /net\n"
    assert "RUN --network=host is not allowed" in build(host, directory, network, code=1)
    build(host, directory, network, "--allow", "network.host")
    assert "unknown" in build(host, directory, network, "--allow", "everything", code=2)
    certificate, key = host.user("operator", Role.OPERATOR)
    host.add_host("as-operator", host.first.address, cert=str(certificate), key=str(key))
    done = host.shoal("build", "-H", "as-operator", "--allow", "network.host", directory, code=1)
    assert "admin" in done.stderr
