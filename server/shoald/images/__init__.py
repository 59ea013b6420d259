"""From a reference to an unpacked image, and back to a registry."""
