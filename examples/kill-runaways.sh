#!/bin/sh
# Find programs by their arguments on every node, and kill those, in one shell line.
. "$(dirname "$0")/own-cloud"

# Four programs of two kinds.
start() { cloudfs run sh -c 'while :; do sleep 1; done' "$1"; }
bad=$(start runaway)
worse=$(start runaway)
good=$(start careful)
better=$(start careful)

state() { sed 's/.* state=\([a-z]*\) .*/\1/' "$cloud/proc/$1/status"; }
for id in $bad $worse $good $better; do
	expect "$id runs" running "$(state "$id")"
done

# The line itself: whose arguments say runaway, on whatever node, gets a kill.
grep -l runaway "$cloud"/nodes/*/proc/*/args | xargs -n 1 dirname | while read -r p; do
	echo kill >"$p/ctl"
done

for id in $bad $worse; do
	expect "$id is gone" exited "$(state "$id")"
done
for id in $good $better; do
	expect "$id lives" running "$(state "$id")"
done
