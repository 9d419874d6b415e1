#!/bin/sh
# Cut a cloud in two.  Both halves go on; when the links are whole again, all agree.
# Links are cut in network namespaces, so this one is for root.
nodes=4
if [ "$(id -u)" != 0 ]; then
	echo "partition: only root can make links that can be cut" >&2
	exit 1
fi
. "$(dirname "$0")/own-nodes"

split() { python3 -m cloudfs.node.netns "$CLOUDFS_NET" "$@"; }
# here PATH, there PATH: a file as n1 sees it, and as n3 does.
here() { cat "$cloud/$1"; }
there() { cloudfs 9p cat "unix:${CLOUDFS_STATE%/n1/state}/n3/state/sock" "$1"; }
# state SIDE PATH: the word after state= in a status.
state() { "$1" "$2" | sed 's/.*state=\([a-z]*\).*/\1/'; }

near=$(cloudfs run --on n2 sleep 1000)
far=$(cloudfs run --on n4 sleep 1000)
soon "n3 knows what runs on n2" running state there "proc/$near/status"
soon "n1 knows what runs on n4" running state here "proc/$far/status"

split n1 n2 / n3 n4

soon "for n1, n4 is gone" gone state here nodes/n4/status
soon "for n3, n2 is gone" gone state there nodes/n2/status
soon "for n1, n2 is not" alive state here nodes/n2/status
expect "n1 has lost what runs on n4" lost "$(state here "proc/$far/status")"
expect "for n3 it runs" running "$(state there "proc/$far/status")"
new=$(cloudfs run --on n2 sleep 1000)
soon "objects start meanwhile" running state here "proc/$new/status"
echo kill >"$cloud/proc/$near/ctl"
soon "and end" exited state here "proc/$near/status"

split n1 n2 n3 n4

soon "n1 has found n4" alive state here nodes/n4/status
soon "what runs on n4 runs for n1" running state here "proc/$far/status"
soon "n3 knows what was started" running state there "proc/$new/status"
soon "and what has ended" exited state there "proc/$near/status"
