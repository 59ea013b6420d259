"""The daemon: pulls, builds and keeps images, and runs containers on one host."""
