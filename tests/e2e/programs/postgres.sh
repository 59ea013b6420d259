#!/bin/sh
# A PostgreSQL server of which all data is in /var/lib/postgresql/data; as the user postgres.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
[ -s "$data/PG_VERSION" ] || "$bin/initdb" --auth=trust --encoding=UTF8 --locale=C.UTF-8 -D "$data" >/dev/null
exec "$bin/postgres" -D "$data" -c "listen_addresses=*" -c unix_socket_directories=/tmp
