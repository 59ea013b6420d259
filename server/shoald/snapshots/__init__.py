"""Layers on disk and the root file systems that overlayfs makes of them."""
