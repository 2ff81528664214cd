#!/bin/sh
# Behaves like the official image's entrypoint where the tests rely on it: the first start makes the
# cluster from POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB and POSTGRES_INITDB_ARGS without listening
# on TCP, then the server replaces this shell. The image runs it as the user `postgres`, never as root.
set -eu

case "${1:-}" in
  "" | -*) set -- postgres "$@" ;;
  postgres) [ "${2:-}" != --version ] || exec "$@" ;;
  *) exec "$@" ;;
esac
shift

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_PASSWORD:?a new database needs POSTGRES_PASSWORD}"
  user="${POSTGRES_USER:-postgres}"
  database="${POSTGRES_DB:-$user}"
  password_file="$(mktemp)"
  printf '%s\n' "$POSTGRES_PASSWORD" >"$password_file"
  # POSTGRES_INITDB_ARGS is a list of options: it is meant to be split.
  # shellcheck disable=SC2086
  initdb -D "$PGDATA" --username="$user" --pwfile="$password_file" \
    --auth-local=trust --auth-host=scram-sha-256 ${POSTGRES_INITDB_ARGS:-}
  rm "$password_file"
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  if [ "$database" != postgres ]; then
    pg_ctl -D "$PGDATA" -w -t 60 -o "-c listen_addresses='' -k /tmp" start
    createdb -h /tmp -U "$user" "$database"
    pg_ctl -D "$PGDATA" -w -t 60 -m fast stop
  fi
fi

exec postgres -D "$PGDATA" -c "listen_addresses=*" -k /tmp "$@"
