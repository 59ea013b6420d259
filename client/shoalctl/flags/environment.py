"""`-e` and `--env-file`, as docker reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from shoalctl.flags.fault import UsageFault

_MAX_LINE = 64 * 1024  # docker's scanner has the same limit


def environment(entries: Iterable[str], files: Iterable[str], own: Mapping[str, str]) -> list[str]:
    """KEY=value for all env files and `-e` entries, in that order: the later one of a key wins.

    A bare KEY takes the value from `own` (the client's environment) and is left out when it is not there.
    Raises UsageFault for an entry without a name, a value that is not UTF-8, or an unreadable file.
    """
    merged: dict[str, str] = {}
    for file in files:
        for key, value in _read(file, own):
            merged[key] = value
    for entry in entries:
        pair = _entry(entry, own)
        if pair is not None:
            merged[pair[0]] = pair[1]
    return [f"{key}={value}" for key, value in merged.items()]


def parse_env_lines(text: str, own: Mapping[str, str], name: str = "env file") -> list[tuple[str, str]]:
    """The pairs of an env file: `KEY=value` (taken literally, no quotes), `KEY`, `# comment`, blank lines."""
    pairs = []
    for number, raw in enumerate(file_lines(text.removeprefix("\ufeff")), 1):
        line = raw.lstrip()
        if not line or line.startswith("#"):
            continue
        if len(line) > _MAX_LINE:
            raise UsageFault(f"{name}:{number}: the line is longer than {_MAX_LINE} characters")
        key = line.partition("=")[0]
        if not key or any(c.isspace() for c in key.rstrip() if "=" in line) or (key != key.rstrip() and "=" in line):
            raise UsageFault(f"{name}:{number}: {key!r} can't be a variable's name", hint="write KEY=value")
        pair = _entry(line if "=" in line else line.rstrip(), own)
        if pair is not None:
            pairs.append(pair)
    return pairs


def file_lines(text: str) -> list[str]:
    """Lines as docker's scanner has them: they end with LF or CR LF alone, other separators belong to the values."""
    return [line.removesuffix("\r") for line in text.split("\n")]


def _read(file: str, own: Mapping[str, str]) -> list[tuple[str, str]]:
    try:
        text = Path(file).read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageFault(f"can't read the env file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageFault(f"the env file {file} is not UTF-8") from error
    return parse_env_lines(text, own, file)


def _entry(entry: str, own: Mapping[str, str]) -> tuple[str, str] | None:
    key, equals, value = entry.partition("=")
    if not key or "\0" in entry:
        raise UsageFault(
            f"invalid environment variable {entry!r}", hint="write KEY=value, or KEY for this machine's value"
        )
    if equals:
        return key, value
    return (key, _text(key, own[key])) if key in own else None


def _text(key: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageFault(f"the value of the environment variable {key} is not UTF-8") from error
    return value


def labels(entries: Iterable[str]) -> dict[str, str]:
    """`key=value` or `key` (an empty value) for each entry. Raises UsageFault."""
    found: dict[str, str] = {}
    for entry in entries:
        key, _, value = entry.partition("=")
        if not key.strip():
            raise UsageFault(f"invalid label {entry!r}", hint="write key=value")
        found[key] = value
    return found
