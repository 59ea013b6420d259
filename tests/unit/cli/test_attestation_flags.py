"""`--sbom`, `--provenance` and `--attest`: what is understood, and what is not."""

from __future__ import annotations

import pytest

from shoalctl.flags.attestations import Attestations, Provenance, parse_attestations
from shoalctl.flags.fault import UsageFault


@pytest.mark.parametrize(
    ("attest", "sbom", "provenance", "wanted"),
    [
        ([], None, None, Attestations()),
        ([], "", "", Attestations()),
        ([], "true", None, Attestations(sbom=True)),
        ([], "1", "0", Attestations(sbom=True, provenance=False)),
        ([], "false", "true", Attestations(sbom=False, provenance=Provenance())),
        ([], None, "mode=max", Attestations(provenance=Provenance("max"))),
        ([], None, "mode=max,version=v1", Attestations(provenance=Provenance("max", "v1"))),
        (["type=sbom"], None, None, Attestations(sbom=True)),
        (["type=sbom,disabled=true"], None, None, Attestations(sbom=False)),
        (["type=provenance"], None, None, Attestations(provenance=Provenance())),
        (["type=provenance,disabled=1,mode=max"], None, None, Attestations(provenance=False)),
        (["type=sbom", "mode=max,type=provenance"], None, None, Attestations(True, Provenance("max"))),
        (["type=sbom"], None, "mode=min", Attestations(True, Provenance())),
        (
            [],
            None,
            "builder-id=https://ci.example.org/1,reproducible=true,inline-only=true",
            Attestations(provenance=Provenance(builder_id="https://ci.example.org/1", reproducible=True)),
        ),
        ([], None, "Mode=max", Attestations(provenance=Provenance("max"))),
    ],
)
def test_understood(attest: list[str], sbom: str | None, provenance: str | None, wanted: Attestations) -> None:
    assert parse_attestations(attest, sbom, provenance) == wanted


@pytest.mark.parametrize(
    ("attest", "sbom", "provenance"),
    [
        ([""], None, None),
        (["sbom"], None, None),
        (["type=vex"], None, None),
        (["mode=max"], None, None),
        (["type=sbom", "type=sbom"], None, None),
        (["type=sbom"], "true", None),
        (["type=provenance"], None, "false"),
        (["type=sbom,mode=max"], None, None),
        (["type=sbom,disabled=maybe"], None, None),
        ([], "yes", None),
        ([], "type=sbom", None),
        ([], None, "max"),
        ([], None, "mode=full"),
        ([], None, "mode=max,mode=min"),
        ([], None, "version=v2"),
        ([], None, "reproducible=?"),
        ([], None, "mode=max,"),
        ([], None, "=x"),
        ([], None, "what=ever"),
    ],
)
def test_faults(attest: list[str], sbom: str | None, provenance: str | None) -> None:
    with pytest.raises(UsageFault) as fault:
        parse_attestations(attest, sbom, provenance)
    assert fault.value.hint or fault.value.message


@pytest.mark.parametrize(
    ("attest", "sbom"), [([], "generator=docker/scout-sbom-indexer"), (["type=sbom,generator=x"], None)]
)
def test_no_generator(attest: list[str], sbom: str | None) -> None:
    with pytest.raises(UsageFault, match="reads the image's package databases itself"):
        parse_attestations(attest, sbom)
