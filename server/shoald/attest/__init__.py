"""Attestations of images: what is in them, how they were made. Pure, but for `inventory`, which reads files."""
