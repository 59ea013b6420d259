#!/bin/sh
# Install shoald on this Debian host: packages, a virtual environment in /opt/shoal, a configuration, a systemd unit.
# Run as root from a checkout of shoal. Safe to run again: it updates the program and keeps the configuration.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
prefix=${PREFIX:-/opt/shoal}
etc=${SHOAL_ETC:-/etc/shoal}

if [ "$(id -u)" != 0 ]; then
    echo "install.sh: run it as root" >&2
    exit 1
fi

"$here/apt-install.sh" "$here/apt-packages.txt"

echo "+ install into $prefix"
[ -x "$prefix/bin/python" ] || python3 -m venv "$prefix"
"$prefix/bin/pip" install --quiet --upgrade "$here/..[daemon]"
ln -sf "$prefix/bin/shoald" /usr/local/sbin/shoald
ln -sf "$prefix/bin/shoal" /usr/local/bin/shoal

install -d -m 0755 "$etc"
install -d -m 0700 "$etc/pki"
if [ ! -e "$etc/shoald.toml" ]; then
    install -m 0600 "$here/config.example.toml" "$etc/shoald.toml"
fi

if [ -d /run/systemd/system ]; then
    sed "s|/opt/shoal|$prefix|g; s|/etc/shoal|$etc|g" "$here/shoald.service" >/etc/systemd/system/shoald.service
    systemctl daemon-reload
    systemctl enable shoald.service
    systemctl restart shoald.service
    systemctl --no-pager --lines=0 status shoald.service
else
    echo "no systemd here: start it with: shoald serve"
fi
"$prefix/bin/shoald" doctor --config "$etc/shoald.toml" || true

cat <<END

shoald listens on /run/shoal/api/shoald.sock. To command it from elsewhere:
  1. on your laptop:  shoal pki init && shoal pki issue host $(hostname) --san $(hostname)
  2. copy the host's certificate and key and the CA's certificate to $etc/pki/
  3. set listen and [tls] in $etc/shoald.toml, then: systemctl restart shoald
END
