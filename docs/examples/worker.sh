#!/bin/bash
# Hands each job of a work queue to a command, on its standard input, and says what has become of it.
# Usage: SECRET=… worker.sh http://localhost:8000 mail send-mail
url=$1/v1/queues/$2
shift 2
ask() { curl -s -X POST ${SECRET:+-H "Authorization: Bearer $SECRET"} "$@"; }
while true; do
    job=$(ask "$url/claim?wait=30&lease=60")
    id=$(sed -n 's/^\[{"id":"\([^"]*\)".*/\1/p' <<<"$job")
    if [ -z "$id" ]; then # none in time; or it was refused: not at once again
        [ "$job" = '[]' ] || sleep 1
    elif "$@" <<<"$job"; then
        ask "$url/jobs/$id/done" >/dev/null
    else
        ask -d '{"reason":"the command has failed"}' "$url/jobs/$id/fail" >/dev/null
    fi
done
