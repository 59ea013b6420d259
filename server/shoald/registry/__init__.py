"""Registries: the client side of the OCI distribution-spec 1.1, with the credential rules that hostile registries teach."""
