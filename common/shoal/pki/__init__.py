"""The fleet's own certificate authority: one CA, a certificate for each host and one, with a role, for each user.

Importing this package is cheap: `cryptography` is imported inside the functions that need it, so that the client, which
only reads PEM files to hand them to gRPC, never pays for it.
"""

from __future__ import annotations

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
