#!/bin/sh
# Find programs by their arguments on every node, and kill those, in one shell line.
nodes=3
. "$(dirname "$0")/own-nodes"

# Programs of two kinds, on all nodes.
start() { cloudfs run --on "$1" sh -c 'while :; do sleep 1; done' "$2"; }
bad=
good=
for n in n1 n2 n3; do
	bad="$bad $(start $n runaway)"
	good="$good $(start $n careful)"
done

state() { sed 's/.* state=\([a-z]*\) .*/\1/' "$cloud/proc/$1/status"; }
for id in $bad $good; do
	soon "$id runs" running state "$id"
done

# The line itself: whose arguments say runaway, on whatever node, gets a kill.
grep -l runaway "$cloud"/nodes/*/proc/*/args | xargs -n 1 dirname | while read -r p; do
	echo kill >"$p/ctl"
done

for id in $bad; do
	soon "$id is gone" exited state "$id"
done
for id in $good; do
	soon "$id lives" running state "$id"
done
