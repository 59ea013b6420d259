"""The client: the `shoal` command and the Fleet library."""
