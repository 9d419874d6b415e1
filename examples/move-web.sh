#!/bin/sh
# Move a web server while clients ask it: they look up where it is in its status, and what
# fails does so only while it moves.
nodes=3 checkpoints=yes
. "$(dirname "$0")/own-nodes"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

id=$(cloudfs run --on n2 --runtime process --dir "$work" python3 -m http.server 8080)
# field NAME: of the server's status.
field() { sed "s/.* $1=\([^ ]*\).*/\1/" "$cloud/.fresh/.MaxTime=20/proc/$id/status"; }
first=$(field addr)
# clients SECONDS N PLACES: so many clients, on n1, where its tree is mounted beside its state,
# for so long after so many addresses have answered.
program=$(cd "$(dirname "$0")" && pwd)/clients.py
status=${CLOUDFS_STATE%/state}/cloud/.fresh/.MaxTime=20/proc/$id/status
clients() { cloudfs run --wait --on n1 --runtime process python3 "$program" "$status" 8080 "$@"; }
answers() { clients 0.1 1 1 | sed 's/.*places=\([^ ]*\).*/\1/'; }
soon "it answers at n2" "$first" answers

clients 2 4 2 >"$work/told" &
load=$!
sleep 1
# Again, if n2 has not heard of n3 yet.
onward() {
	[ "$(field node)" = n3 ] || echo move n3 >"$cloud/.MaxTime=60/proc/$id/ctl" || cloudfs why
	field node
}
soon "it runs on n3" n3 onward
second=$(field addr)
wait "$load"
cat "$work/told"
told() { sed "s/.*$1=\([^ ]*\).*/\1/" "$work/told"; }
expect "clients found it at both" "$first,$second" "$(told places)"
expect "what failed failed while it moved" 0 "$(told outside)"
cloudfs kill "$id"
