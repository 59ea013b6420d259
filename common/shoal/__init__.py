"""What the client and the daemon share: errors, references, digests, platforms, certificates, generated stubs."""
