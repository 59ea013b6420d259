"""Several daemons on this machine, to try a fleet."""
