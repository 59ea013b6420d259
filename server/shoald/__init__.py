"""The daemon: pulls, builds and keeps images, and runs containers on one host."""

__version__ = "0.1.0"
