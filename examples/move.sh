#!/bin/sh
# Move a program that counts from node to node, and read on: no number is lost.
nodes=3 checkpoints=yes
. "$(dirname "$0")/own-nodes"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

id=$(cloudfs run --on n1 sh -c 'i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done')
cat "$cloud/.follow/proc/$id/stdout" >followed &
reader=$!

# How many numbers there are, and where it runs.
count() { test "$(wc -l <followed)" -ge "$1" && echo yes; }
node() { cat "$cloud/proc/$id/node"; }

soon "it counts" yes count 3
# Again, if a node has not heard of the other yet.
first() { [ "$(node)" = n2 ] || cloudfs move "$id" n2 >&2; node; }
soon "it runs on n2" n2 first
soon "it counts on" yes count 15
# The same as a shell line; again, if n2 has not heard of n3 yet.
onward() {
	[ "$(node)" = n3 ] || echo move n3 >"$cloud/.MaxTime=60/proc/$id/ctl" || cloudfs why
	node
}
soon "it runs on n3" n3 onward
soon "it counts on" yes count 30

# An image of it, kept; it can be fetched like any directory.
cloudfs checkpoint "$id" safe
cp -r "$cloud/proc/$id/checkpoint/safe" fetched
(cd fetched && sha256sum --quiet -c sums)

cloudfs kill "$id"
wait "$reader"
seq 0 "$(($(wc -l <followed) - 1))" >wanted
cmp wanted followed
