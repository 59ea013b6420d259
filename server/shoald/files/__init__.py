"""Files of clients: immutable trees by their content, and secrets."""
