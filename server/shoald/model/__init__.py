"""Domain records: frozen values without behaviour or I/O, shared by all layers of the daemon."""
