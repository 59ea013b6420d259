"""The daemon's truth: one SQLite file with typed repositories."""
