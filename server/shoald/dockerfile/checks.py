"""Build checks: warnings about what works but should be written otherwise, as BuildKit words and names them.

https://docs.docker.com/reference/build-checks/; a `# check=` directive or an error setting chooses among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from shoald.dockerfile.errors import NOWHERE, DockerfileError, Span

_DOCS = "https://docs.docker.com/go/dockerfile/rule/"
_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|psw|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE | re.ASCII
)
_NOT_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE | re.ASCII)


EXPERIMENTAL = frozenset({"InvalidDefinitionDescription"})
"""Checks that speak only when `experimental=` names them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `rule` is a build check's name, or "" for a note about the request; lines as in Span."""

    rule: str
    message: str
    url: str = ""
    start_line: int = 0
    end_line: int = 0


def finding(rule: str, message: str, span: Span = NOWHERE) -> Finding:
    """A finding of the check `rule`, with the address of its documentation."""
    slug = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", rule).lower()
    return Finding(rule, message, f"{_DOCS}{slug}/" if rule else "", span.start, span.end)


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """Which checks speak: the value of `# check=`, e.g. `skip=JSONArgsRecommended,StageNameCasing;error=true`."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    error: bool = False
    experimental: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str, span: Span = NOWHERE) -> CheckOptions:
        """Read the value of the directive. Raises DockerfileError for an unknown option."""
        skip = experimental = frozenset[str]()
        error = False
        for part in filter(None, (p.strip() for p in text.split(";"))):
            key, separator, value = part.partition("=")
            names = [n.strip() for n in value.split(",")]
            match key.strip():
                case "skip" if separator:
                    skip = frozenset(names)
                case "error" if value.strip().lower() in {"true", "1", "t", "false", "0", "f"}:
                    error = value.strip().lower() in {"true", "1", "t"}
                case "experimental" if separator:
                    experimental = EXPERIMENTAL if "all" in names else frozenset(names)
                case _:
                    raise DockerfileError(f"failed to parse check options: invalid check option {part!r}", span=span)
        return cls(skip, "all" in skip, error, experimental)

    def select(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """The findings that are not skipped, each once; notes without a rule always pass."""
        return tuple(dict.fromkeys(f for f in findings if not f.rule or self._speaks(f.rule)))

    def _speaks(self, rule: str) -> bool:
        if self.skip_all or rule in self.skip:
            return False
        return rule not in EXPERIMENTAL or rule in self.experimental

    def enforce(self, findings: Iterable[Finding]) -> None:
        """Raise DockerfileError (DOCKERFILE_CHECKS) when `error=true` was asked for and any check found something."""
        found = [f for f in self.select(findings) if f.rule]
        if self.error and found:
            rules = ", ".join(sorted({f.rule for f in found}))
            first = Span(found[0].start_line, found[0].end_line)
            message = f"lint violation found for rules: {rules}"
            raise DockerfileError(message, span=first, reason="DOCKERFILE_CHECKS")


def looks_secret(name: str) -> bool:
    """Whether a variable's name says that its value is a secret (SecretsUsedInArgOrEnv)."""
    return bool(_SECRET.search(name)) and not _NOT_SECRET.search(name)


def secret_in(instruction: str, name: str, span: Span) -> Finding:
    """ARG or ENV holds what looks like a secret."""
    message = f'Do not use ARG or ENV instructions for sensitive data ({instruction} "{name}")'
    return finding("SecretsUsedInArgOrEnv", message, span)


def legacy_key_value(keyword: str, span: Span) -> Finding:
    """`ENV key value` instead of `ENV key=value`."""
    message = f'"{keyword} key=value" should be used instead of legacy "{keyword} key value" format'
    return finding("LegacyKeyValueFormat", message, span)


def json_recommended(keyword: str, span: Span) -> Finding:
    """CMD or ENTRYPOINT in shell form."""
    message = f"JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
    return finding("JSONArgsRecommended", message, span)


def repeated(keyword: str, span: Span) -> Finding:
    """An earlier CMD, ENTRYPOINT or HEALTHCHECK of the same stage has no effect; `span` is the earlier one's."""
    message = (
        f"Multiple {keyword} instructions should not be used in the same stage because only the last one will be used"
    )
    return finding("MultipleInstructionsDisallowed", message, span)


def port_findings(spec: str, span: Span) -> list[Finding]:
    """EXPOSE of a protocol in capitals, or of an address or a port of the host, which mean nothing there."""
    found = []
    address, _, port = spec.rpartition(":")
    protocol = port.partition("/")[2]
    if protocol != protocol.lower():
        message = f"Defined protocol '{spec}' in EXPOSE instruction should be lowercase"
        found.append(finding("ExposeProtoCasing", message, span))
    if address:
        message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{spec}'"
        found.append(finding("ExposeInvalidFormat", message, span))
    return found


def undefined_variable(name: str, suggestion: str, span: Span) -> Finding:
    """A variable without a value was used; it expands to nothing."""
    tail = f" (did you mean ${suggestion}?)" if suggestion else ""
    return finding("UndefinedVar", f"Usage of undefined variable '${name}'{tail}", span)
