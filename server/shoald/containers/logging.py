"""Drivers of container logs and their options; pure.

`local` has the options of Docker's driver of that name; sizes as Docker writes them (units of 1024). `json-file` is
Docker's default and another name of it here: the record says what was asked for, the files are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from shoal.errors import InvalidArgument
from shoald.model.container import Container, LogConfig
from shoald.runtime.ports import JournalLabel
from shoald.runtime.rotation import Rotation

DEFAULT = Rotation()
UNKEPT = Rotation(max_bytes=1 << 20, max_files=2)
"""What is written for those who are attached, where the driver keeps nothing that can be read from a file."""

DEFAULT_TAG = "{{.ID}}"
TAG_WORDS = ("ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName")
_WORD = re.compile(r"\{\{ *\.(\w+) *\}\}")
_SHORT = 12

_FILES = ("local", "json-file")
_OPTIONS = {
    **dict.fromkeys(_FILES, ("max-size", "max-file", "labels", "env")),
    "journald": ("tag", "labels", "env"),
    "none": (),
}
_SIZE = re.compile(r"(\d{1,15})(?:([kmgt])(?:i?b)?|b)?")
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SMALLEST = 4096
_MOST_FILES = 1000


def check_log(config: LogConfig) -> None:
    """Raises InvalidArgument (INVALID_LOG_DRIVER, INVALID_LOG_OPTION)."""
    known = _OPTIONS.get(config.driver)
    if known is None:
        raise InvalidArgument(
            f"unknown log driver {config.driver!r}",
            reason="INVALID_LOG_DRIVER",
            hint="choose local (or json-file, the same), journald or none",
        )
    for name, value in config.options.items():
        if name not in known:
            raise InvalidArgument(
                f"unknown log option {name!r} for log driver {config.driver}",
                reason="INVALID_LOG_OPTION",
                hint=f"it knows {', '.join(known)}" if known else "it has no options",
            )
        if "\0" in value or "\n" in value:
            raise InvalidArgument(f"log option {name} must be one line of text", reason="INVALID_LOG_OPTION")
    rotation_of(config)
    expand_tag(config.options.get("tag", ""), dict.fromkeys(TAG_WORDS, ""))


def journal_label(container: Container) -> JournalLabel | None:
    """How its entries are marked in the journal; None where output does not go there."""
    config = container.spec.log
    if config.driver != "journald":
        return None
    return JournalLabel(container.name, expand_tag(config.options.get("tag") or DEFAULT_TAG, tag_values(container)))


def tag_values(container: Container) -> dict[str, str]:
    """What the words of a tag stand for, as Docker has them."""
    image = container.image_id
    short = (container.id[:_SHORT], image.removeprefix("sha256:")[:_SHORT])
    found = (short[0], container.id, container.name, short[1], image, container.spec.image, "shoald")
    return dict(zip(TAG_WORDS, found, strict=True))


def expand_tag(tag: str, values: Mapping[str, str]) -> str:
    """A tag with its words replaced. Raises InvalidArgument (INVALID_LOG_OPTION) for words that `values` lacks."""

    def word(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise InvalidArgument(
                f"log option tag knows no {match[0]}",
                reason="INVALID_LOG_OPTION",
                hint=f"it knows {', '.join(f'{{{{.{name}}}}}' for name in values)}",
            )
        return values[match[1]]

    expanded = _WORD.sub(word, tag)
    if "{{" in _WORD.sub("", tag):
        raise InvalidArgument(f"log option tag={tag} can't be read", reason="INVALID_LOG_OPTION")
    return expanded


def rotation_of(config: LogConfig) -> Rotation:
    """How the container's log is cut. Raises InvalidArgument (INVALID_LOG_OPTION)."""
    if config.driver not in _FILES:
        return UNKEPT
    options = config.options
    max_bytes = _bytes(options["max-size"]) if "max-size" in options else DEFAULT.max_bytes
    max_files = _count(options["max-file"]) if "max-file" in options else DEFAULT.max_files
    return Rotation(max_bytes, max_files)


def _bytes(text: str) -> int:
    if text == "-1":
        return 0
    match = _SIZE.fullmatch(text.strip().lower())
    size = int(match[1]) << _UNITS[match[2] or ""] if match else 0
    if size < _SMALLEST:
        raise InvalidArgument(
            f"invalid log option max-size={text}",
            reason="INVALID_LOG_OPTION",
            hint="a size of at least 4k, such as 10m; -1 for no limit",
        )
    return size


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= _MOST_FILES):
        raise InvalidArgument(
            f"invalid log option max-file={text}", reason="INVALID_LOG_OPTION", hint=f"a number from 1 to {_MOST_FILES}"
        )
    return int(text)
