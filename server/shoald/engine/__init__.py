"""Use cases, one module each; they know nothing of gRPC."""
