#!/bin/sh
# Places an order with curl, which is told to try again whatever went wrong.
url=$1 body=$2 tries=$3 timeout=$4 first=${5-}

said=$(mktemp)
got=$(mktemp)
trap 'rm -f "$said" "$got"' EXIT
set -- --silent --show-error --output "$got" --write-out '%{http_code}\n' --max-time "$timeout" --header 'Authorization: Bearer demo'
if [ -n "$first" ]; then
    # One process for both, so that the connection is used again.
    set -- "$@" "$first" --next "$@"
fi
status=$(curl "$@" --header 'Content-Type: application/json' --data "$body" \
    --fail --retry "$((tries - 1))" --retry-all-errors --retry-delay 1 "$url" 2>"$said" | tail -n 1)

attempts=$(($(grep -c 'Will retry' "$said") + 1))
error=$(grep -v 'Will retry' "$said" | tail -n 1 | tr -d '"\\')
case $status in
000 | '') printf '{"attempts": %s, "status": null, "error": "%s"}\n' "$attempts" "$error" ;;
*) printf '{"attempts": %s, "status": %s, "error": null}\n' "$attempts" "$status" ;;
esac
