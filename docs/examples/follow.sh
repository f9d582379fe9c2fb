#!/bin/bash
# Prints the payload of each event of a topic, a line each; after a break it goes on behind the last one.
# Usage: SECRET=… follow.sh http://localhost:8000 news
trap 'kill $!; exit' TERM
last=
while true; do
    while IFS= read -r line; do
        case $line in
            id:*) last=${line#id: } ;;
            data:*) printf '%s\n' "${line#data: }" ;;
        esac
    done < <(curl -sN -H 'Accept: text/event-stream' ${SECRET:+-H "Authorization: Bearer $SECRET"} \
        ${last:+-H "Last-Event-ID: $last"} "$1/v1/topics/$2?from=start")
    sleep 1
done
