"""What the cache must not hide: a RUN sees its bind mounts as they are now."""

from __future__ import annotations

from pathlib import Path

from tests.support.daemon import Fleet


def build(fleet: Fleet, context: Path, dockerfile: str) -> str:
    """Build it and tell what /out of the image holds."""
    (context / "Dockerfile").write_text(dockerfile)
    fleet.shoal("build", "-H", "h1", "--network", "none", "-q", "-t", "cache-test", context)
    output: str = fleet.shoal("run", "-H", "h1", "--rm", "--network", "none", "cache-test", "cat", "/out").stdout
    return output


def test_a_bind_mount_of_the_context(fleet: Fleet, busybox: str, tmp_path: Path) -> None:
    dockerfile = f"FROM {busybox}\nRUN --mount=type=bind,target=/c,source=dir cat /c/file > /out\nCMD true\n"
    (tmp_path / "dir").mkdir()
    for text in ("one", "two", "one"):
        (tmp_path / "dir/file").write_text(text)
        assert build(fleet, tmp_path, dockerfile) == text


def test_a_bind_mount_of_a_stage(fleet: Fleet, busybox: str, tmp_path: Path) -> None:
    dockerfile = (
        f"FROM {busybox} AS s\nCOPY file /file\n"
        f"FROM {busybox}\nRUN --mount=type=bind,target=/s,from=s cat /s/file > /out\nCMD true\n"
    )
    for text in ("one", "two", "one"):
        (tmp_path / "file").write_text(text)
        assert build(fleet, tmp_path, dockerfile) == text


def test_a_private_file_of_a_stage_is_roots(fleet: Fleet, busybox: str, tmp_path: Path) -> None:
    dockerfile = (
        f"FROM {busybox} AS s\nRUN echo secret > /file && chmod 600 /file\n"
        f"FROM {busybox}\nRUN --mount=type=bind,target=/s,from=s cat /s/file > /out && stat -c %u /s/file >> /out\n"
        "CMD true\n"
    )
    assert build(fleet, tmp_path, dockerfile) == "secret\n0\n"
