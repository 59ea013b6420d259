"""Everything that the command prints: the only part of the client that writes to standard output and error."""
