"""The life of a container: state machine and supervisor."""
