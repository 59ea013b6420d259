"""The fleet's own certificate authority: one CA, a certificate for each host and one, with a role, for each user.

Importing this package is cheap: each name is looked up in its module when it is first asked for, and `cryptography` is
imported inside the functions that need it. The client, which only reads PEM files for gRPC, pays for neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.pki.certificate import Description, Identity, Role, describe, identity_from_pem
    from shoal.pki.check import check_pair
    from shoal.pki.issue import create_ca, issue_host, issue_user
    from shoal.pki.keypair import KeyPair, read_pem

__all__ = [
    "Description",
    "Identity",
    "KeyPair",
    "Role",
    "check_pair",
    "create_ca",
    "describe",
    "identity_from_pem",
    "issue_host",
    "issue_user",
    "read_pem",
]

_PLACES = {
    "Description": "certificate",
    "Identity": "certificate",
    "KeyPair": "keypair",
    "Role": "certificate",
    "check_pair": "check",
    "create_ca": "issue",
    "describe": "certificate",
    "identity_from_pem": "certificate",
    "issue_host": "issue",
    "issue_user": "issue",
    "read_pem": "keypair",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
