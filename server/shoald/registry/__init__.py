"""Registries: the client side of the OCI distribution-spec 1.1, fit for hostile ones."""
