"""From a container's record to processes: OCI spec, OCI runtime, conmon, streams."""
