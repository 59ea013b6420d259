"""The instructions of the Dockerfile language as typed values; nothing is expanded yet.

https://docs.docker.com/reference/dockerfile/
"""

from __future__ import annotations

from dataclasses import dataclass

from shoald.dockerfile.errors import Span


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruction:
    """What all have: `text` with continuations joined, the keyword as `spelled`, and the lines."""

    text: str
    spelled: str
    span: Span
    onbuild: bool = False
    """Whether it comes from a trigger of the base; its span is then the FROM that fired it."""

    @property
    def keyword(self) -> str:
        """The keyword in upper case."""
        return self.spelled.upper()


@dataclass(frozen=True, slots=True)
class CommandLine:
    """`words` to run as they are (exec form), or one word for the shell (shell form)."""

    words: tuple[str, ...]
    exec_form: bool


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A file from a heredoc; `expand`: variables in `data` are still to be replaced."""

    name: str
    data: str
    expand: bool = False


@dataclass(frozen=True, slots=True)
class Pair:
    """`key=value`; `legacy` when written `key value`."""

    key: str
    value: str
    legacy: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class From(Instruction):
    """FROM [--platform=...] base [AS name]; `name` in lower case, `name_spelled` as written."""

    base: str
    platform: str = ""
    name: str = ""
    name_spelled: str = ""
    as_spelled: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run(Instruction):
    """RUN; `mounts` and `devices` are the flags' values as written, `files` the heredocs of the command."""

    command: CommandLine
    files: tuple[HeredocFile, ...] = ()
    mounts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    network: str = "default"
    """default, none or host."""
    security: str = "sandbox"
    """sandbox or insecure."""


@dataclass(frozen=True, slots=True)
class HeredocFile:
    """A heredoc of RUN: `raw` goes to a shell that reads heredocs itself, `data` has `<<-` tabs stripped."""

    name: str
    raw: str
    data: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer(Instruction):
    """What COPY and ADD share."""

    sources: tuple[str, ...]
    dest: str
    files: tuple[InlineFile, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Copy(Transfer):
    """COPY; `from_` names a stage, a stage's number, a named context or an image; empty is the build context."""

    from_: str = ""
    parents: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Add(Transfer):
    """ADD; `unpack` and `keep_git_dir` are None when not given."""

    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Env(Instruction):
    """ENV key=value ..."""

    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Label(Instruction):
    """LABEL key=value ..."""

    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arg(Instruction):
    """ARG name[=default] ...; the default is None when not given."""

    args: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workdir(Instruction):
    """WORKDIR path."""

    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class User(Instruction):
    """USER name[:group]."""

    user: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cmd(Instruction):
    """CMD."""

    command: CommandLine


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrypoint(Instruction):
    """ENTRYPOINT."""

    command: CommandLine


@dataclass(frozen=True, kw_only=True, slots=True)
class Expose(Instruction):
    """EXPOSE port[/protocol] ..., sorted as Docker sorts them."""

    ports: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume(Instruction):
    """VOLUME path ..."""

    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Shell(Instruction):
    """SHELL ["program", "argument"]."""

    shell: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StopSignal(Instruction):
    """STOPSIGNAL name or number."""

    signal: str


@dataclass(frozen=True, slots=True)
class HealthcheckConfig:
    """As in an image config: `test` is ("NONE",), ("CMD", ...) or ("CMD-SHELL", line); times in ns, 0 inherits."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Healthcheck(Instruction):
    """HEALTHCHECK."""

    health: HealthcheckConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Onbuild(Instruction):
    """ONBUILD; `trigger` is the instruction as text, with its heredocs."""

    trigger: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Maintainer(Instruction):
    """MAINTAINER name (deprecated)."""

    name: str
