"""`shoal host test`: what a connection to each host tells."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shoal.errors import ShoalError
from shoalctl.commands.outcome import collected, presented
from shoalctl.fleet.host import HostClient
from shoalctl.invocation import Invocation
from shoalctl.render.errors import show_warning
from shoalctl.render.listing import Column, Listing

COLUMNS = (
    Column("NAME", "Name"),
    Column("ADDRESS", "Address"),
    Column("VERSION", "Version"),
    Column("LATENCY", "Latency"),
    Column("ROLE", "Role"),
    Column("CERTIFICATE", "Certificate"),
)
_SOON = 14  # days


async def test_hosts(invocation: Invocation, listing: Listing) -> int:
    """Test all selected hosts at once, show a row for each that answers, and the errors of the others."""
    async with invocation.fleet() as fleet:
        results = await collected(fleet.each(_one), fleet.names)
    code = presented(listing, results, lambda _host, row: [row])
    for result in results:
        days = result.value["CertificateDays"] if result.value else None
        if days is not None and days < _SOON:
            show_warning(f"your certificate expires in {days} days", result.host)
    return code


async def _one(host: HostClient) -> dict[str, Any]:
    begin = time.monotonic()
    await host.link.channel()
    connected = time.monotonic()
    await host.ping()
    latency = time.monotonic() - connected
    info = await host.info()
    days = _days_left(host.host.cert)
    return {
        "Host": host.name,
        "Name": host.name,
        "Address": host.host.address,
        "Version": info.version,
        "Latency": f"{latency * 1000:.1f}ms",
        "ConnectMilliseconds": round((connected - begin) * 1000, 1),
        "LatencyMilliseconds": round(latency * 1000, 1),
        "Role": info.caller_role,
        "Caller": info.caller_name,
        "Certificate": "" if days is None else f"{days} days left",
        "CertificateDays": days,
        "Warnings": list(info.warnings),
    }


def _days_left(cert: Path | None) -> int | None:
    """Days that the client's certificate is still good for."""
    if cert is None:
        return None
    from shoal import pki

    try:
        description = pki.describe(cert.read_bytes())
    except (OSError, ShoalError):
        return None
    return (description.not_after - datetime.now(UTC)).days
