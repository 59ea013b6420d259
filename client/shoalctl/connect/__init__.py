"""One channel to one host: mutual TLS or a unix socket, errors translated, lost links taken up again."""
