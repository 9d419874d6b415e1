#!/bin/sh
# A node is lost while a program counts there: it goes on at another, from its last image,
# and when the node is back it has no second copy.
nodes=3 checkpoints=yes
. "$(dirname "$0")/own-nodes"

split() { python3 -m cloudfs.node.netns "$CLOUDFS_NET" "$@"; }
copies() { grep -o '[0-9] of [0-9] copies' "$cloud/proc/$id/status"; }
# lost, running … and where
state() { last cat "$cloud/proc/$id/status"; }
last() { "$@" | sed 's/.*state=\([a-z]*\) node=\([a-z0-9]*\) .*/\1 \2/'; }
elsewhere() { state | grep -qx 'running n[12]' && echo yes; }

id=$(cloudfs run --on n3 --availability checkpoint=2,replicas=2,patience=5 \
	sh -c 'i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done')
soon "two other nodes have an image of it" "2 of 2 copies" copies
sleep 3
cat "$cloud/proc/$id/availability"

split n1 n2 / n3
soon "it runs on without n3" yes elsewhere
# Checkpoints go on, and it is "checkpointing" while one is made: the node alone stays.
now="running $(state | cut -d ' ' -f 2)"
grep 'event=restarted' "$cloud/proc/$id/events"

split n1 n2 n3
seen() { sed 's/.*state=\([a-z]*\).*/\1/' "$cloud/nodes/n3/status"; }
soon "n3 is back" alive seen
there() { cloudfs 9p cat "unix:${CLOUDFS_STATE%/n1/state}/n3/state/sock" "proc/$id/status"; }
soon "and knows who has it" "$now" last there
soon "two nodes have images of it again" "2 of 2 copies" copies
soon "it runs where it ran" "$now" state
out=$(mktemp)
cloudfs logs "$id" >"$out"
seq 0 "$(($(wc -l <"$out") - 1))" | cmp - "$out"
rm "$out"
cloudfs kill "$id"
