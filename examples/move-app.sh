#!/bin/sh
# Move an application of three objects with one write, in order, and bring it back.
nodes=3 checkpoints=yes
. "$(dirname "$0")/own-nodes"

# A server that counts, and two that come after it.
count='i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done'
db=$(cloudfs run --on n1 --app shop sh -c "$count")
for n in n1 n2; do
	id=$(cat "$cloud/proc/clone")
	for line in "app shop" "on $n" "after $db" "exec sh -c '$count'"; do
		echo "$line" >"$cloud/proc/$id/ctl"
	done
done
group=$cloud/view/by-app/shop

# What runs where, as n1 n1 n2; and how many of the group are done.
places() { cat "$group"/*/node | sort | xargs; }
done_() { grep -c "^id=.* state=$1 " "$group/progress"; }
soon "n1 knows all three" "n1 n1 n2" places

measured() { ls -d "$cloud"/nodes/n[12]/net/n3 | wc -l; }
soon "who is to move them knows n3" 2 measured
echo move n3 >"$group/ctl"
soon "one write moves them" "n3 n3 n3" places
cat "$group/progress"
expect "all are done" 3 "$(done_ done)"
echo undo >"$group/ctl"
expect "and undo brings them back" 3 "$(done_ done)"
soon "to where they were" "n1 n1 n2" places

# The same for all that runs on a node; the bar stands on a terminal.
cloudfs drain n1
soon "nothing runs on n1" 0 sh -c "cat '$group'/*/node | grep -c n1"
cloudfs drain --undo n1
soon "and all is back" "n1 n1 n2" places
cloudfs kill app=shop
