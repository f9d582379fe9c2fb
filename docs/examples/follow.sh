#!/bin/bash
# Prints the payload of each event of a topic, a line each; after a break it goes on behind the last one.
# Usage: SECRET=… follow.sh http://localhost:8000 news
trap 'kill $!; exit' TERM
last=
while true; do
    id= event= data=
    while IFS= read -r line; do
        case $line in
            'id: '*) id=${line#id: } ;;
            'event: '*) event=${line#event: } ;;
            'data: '*) data+=${line#data: } ;; # of several lines: line ends stand between tokens of JSON only
            '') # only now the event is whole
                if [ "$event" = broker.gap ]; then
                    printf 'lost: %s\n' "$data" >&2
                elif [ -n "$data" ]; then
                    printf '%s\n' "$data"
                fi
                last=${id:-$last}
                id= event= data=
                ;;
        esac
    done < <(curl -sN -H 'Accept: text/event-stream' ${SECRET:+-H "Authorization: Bearer $SECRET"} \
        ${last:+-H "Last-Event-ID: $last"} "$1/v1/topics/$2?from=start")
    sleep 1
done
