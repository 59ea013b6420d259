"""`--security-opt` in the forms that Docker knows; pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from shoal.errors import InvalidArgument

UNCONFINED = "unconfined"
BUILTIN = "builtin"


class SecurityOptions(Struct, frozen=True):
    """What the options of a container come to. `seccomp`: "" or "builtin" for the host's profile, "unconfined", or the
    text of a profile; `apparmor`: "" for none of its own."""

    no_new_privileges: bool | None = None
    """None: not said; then it is on, but in a privileged container."""
    seccomp: str = ""
    apparmor: str = ""
    system_paths: bool = True
    """Parts of /proc and /sys are masked or read-only."""


def security_options(options: Sequence[str]) -> SecurityOptions:
    """The options in order, a later one wins. Raises InvalidArgument (INVALID_SECURITY_OPTION)."""
    found = {"no_new_privileges": None, "seccomp": "", "apparmor": "", "system_paths": True}
    for option in options:
        name, value = _split(option)
        if name == "no-new-privileges":
            if value not in ("", "true", "false"):
                raise _invalid(option, "no-new-privileges is true or false")
            found["no_new_privileges"] = value != "false"
        elif name in ("seccomp", "apparmor") and value:
            found[name] = value
        elif option in ("systempaths=unconfined", "systempaths:unconfined"):
            found["system_paths"] = False
        elif name == "label" and value in ("disable", "label=disable"):
            continue  # There is no SELinux labelling to switch off.
        elif name == "label":
            raise _invalid(option, "containers carry no SELinux labels; label=disable is accepted")
        else:
            raise _invalid(option, "it is not known")
    return SecurityOptions(**found)  # type: ignore[arg-type]


def _split(option: str) -> tuple[str, str]:
    """Docker takes `name=value` and, from older days, `name:value`; a bare no-new-privileges stands for true."""
    name, separator, value = option.partition("=")
    if not separator or not name.replace("-", "").isalpha():
        name, _, value = option.partition(":")
    return name, value


def _invalid(option: str, why: str) -> InvalidArgument:
    shown = option if len(option) <= 80 else f"{option[:77]}..."
    return InvalidArgument(
        f"invalid security option {shown!r}: {why}",
        reason="INVALID_SECURITY_OPTION",
        hint="no-new-privileges, seccomp=<profile>, apparmor=<profile>, systempaths=unconfined or label=disable",
    )
