#!/bin/sh
# Install those Debian packages of the given lists that are missing. No service is started by it.
# Usage: deploy/apt-install.sh LIST...
set -eu

# A line is a package and, where another source of it will do, a command: with that in PATH the package is not needed.
missing=
while read -r package command _; do
    [ -n "$package" ] || continue
    [ -z "$command" ] || ! command -v "$command" >/dev/null 2>&1 || continue
    case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
        installed) ;;
        *) missing="$missing $package" ;;
    esac
done <<END
$(sed -e 's/#.*//' "$@")
END
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
    echo "these packages are missing; install them as root:$missing" >&2
    exit 1
fi

# Daemons that come with a package (a registry, Prometheus) would take ports: forbid their start, as policy-rc.d(8) has it.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT INT TERM
fi

echo "+ apt-get install$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086 # a list of package names
apt-get install -q -y --no-install-recommends $missing
