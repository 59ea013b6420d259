"""Blobs by digest, as they came."""
