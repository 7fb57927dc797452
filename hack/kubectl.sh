#!/bin/sh
# A kubectl for tests that need one: the machine's own, or the one that is built in.
command -v kubectl >/dev/null && exec kubectl "$@"
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../bin/keelson" kubectl "$@"
