"""`build --output`: what is to be done with the result."""

from __future__ import annotations

from dataclasses import dataclass, field

from shoal.errors import InvalidArgument
from shoal.reference import Reference
from shoalctl.flags.fault import UsageFault

_HINT = "write -o DIRECTORY, -o type=local|tar|oci|docker,dest=PATH, or -o type=image,name=NAME[,push=true]"
_SWITCH = {"true": True, "1": True, "false": False, "0": False, "": False}


@dataclass(frozen=True, slots=True)
class Output:
    """What is done. `kind` local: files below `dest`; tar: the files as an archive, to the file `dest` or, with -, to
    standard output; oci and docker: the image as an archive, with `names`; image: it gets `names`, and is pushed."""

    kind: str
    dest: str = ""
    names: list[str] = field(default_factory=list)
    push: bool = False
    rewrite_times: bool = False

    @property
    def local(self) -> bool:
        """Whether it comes to this machine."""
        return self.kind != "image"


def parse_output(text: str) -> Output:
    """Docker's syntax: CSV of key=value; a single word is a directory, `-` a tar on standard output. Raises
    UsageFault."""
    if text == "-":
        return Output("tar", "-")
    if text and "=" not in text:
        return Output("local", text)
    given: dict[str, str] = {}
    names: list[str] = []
    for item in text.split(","):
        key, separator, value = item.partition("=")
        if key not in ("type", "dest", "name", "push", "rewrite-timestamp") or not separator:
            raise UsageFault(f"invalid output {text!r}: unknown part {item!r}", hint=_HINT)
        if key == "name":
            names.append(value)
        else:
            given[key] = value
    return _checked(text, given, names)


def _checked(text: str, given: dict[str, str], names: list[str]) -> Output:
    kind, dest = given.get("type", ""), given.get("dest", "")
    if (switch := given.get("push", "").lower()) not in _SWITCH:
        raise UsageFault(f"invalid output {text!r}: push is true or false", hint=_HINT)
    push = kind == "registry" or _SWITCH[switch]
    if (rewrite := given.get("rewrite-timestamp", "").lower()) not in _SWITCH:
        raise UsageFault(f"invalid output {text!r}: rewrite-timestamp is true or false", hint=_HINT)
    rewrite_times = _SWITCH[rewrite]
    if kind in ("local", "tar"):
        if names or push or (kind == "local" and not dest):
            raise UsageFault(f"invalid output {text!r}: type={kind} takes dest=PATH and nothing else", hint=_HINT)
        return Output(kind, dest or "-", rewrite_times=rewrite_times)
    if kind in ("oci", "docker", "image", "registry"):
        for name in names:
            try:
                Reference.parse(name)
            except InvalidArgument as error:
                raise UsageFault(f"invalid output {text!r}: {error}") from error
        if kind == "oci" or (kind == "docker" and dest):
            if push:
                raise UsageFault(f"invalid output {text!r}: type={kind} is not pushed", hint=_HINT)
            return Output(kind, dest or "-", names, rewrite_times=rewrite_times)
        if dest:
            raise UsageFault(f"invalid output {text!r}: type={kind} has no dest", hint=_HINT)
        return Output("image", names=names, push=push, rewrite_times=rewrite_times)
    raise UsageFault(f"invalid output {text!r}: there is no type {kind!r}", hint=_HINT)
