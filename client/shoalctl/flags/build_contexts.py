"""`build --build-context NAME=VALUE`: more contexts by name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from shoal.errors import InvalidArgument
from shoal.reference import Reference
from shoalctl.flags.fault import UsageFault

IMAGE = "docker-image://"
_NAME = re.compile(r"[a-z0-9][a-z0-9/._:@-]{0,254}")


def build_contexts(texts: Iterable[str]) -> dict[str, str]:
    """By name in lower case: a directory of this machine, or `docker-image://REFERENCE`. Raises UsageFault."""
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        name = name.lower()
        if not separator or not value or not _NAME.fullmatch(name):
            raise UsageFault(
                f"invalid build context {text!r}", hint="write NAME=DIRECTORY or NAME=docker-image://IMAGE"
            )
        if value.startswith(IMAGE):
            try:
                Reference.parse(value.removeprefix(IMAGE))
            except InvalidArgument as error:
                raise UsageFault(f"invalid build context {text!r}: {error}") from error
        elif "://" in value or value.startswith("git@"):
            raise UsageFault(f"the build context {text!r} is a URL", hint="fetch it first, and give its directory")
        elif not os.path.isdir(value):
            raise UsageFault(f"the build context {name}: {value!r} is not a directory")
        found[name] = value
    return found
