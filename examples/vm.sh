#!/bin/sh
# A virtual machine as an object: its console is its stdin and stdout, and it moves with all
# that runs in it.
if [ "$(id -u)" != 0 ]; then
	echo "only root can give nodes networks of their own" >&2
	exit 1
fi
nodes=2
. "$(dirname "$0")/own-nodes"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A kernel and a small first file system, of Debian's packages.
image=${CLOUDFS_VM:-$work/image}
[ -e "$image/initrd.gz" ] || python -m cloudfs.cli.vmimage "$image"
kernel=$image/vmlinuz
[ ! -e "$image/vmlinux" ] || kernel=$image/vmlinux

id=$(cat "$cloud/proc/clone")
echo "runtime vm
limit cpu=1 mem=134217728
on n1
exec kernel=$kernel initrd=$image/initrd.gz append='console=ttyS0 quiet'" >"$cloud/.MaxTime=60/proc/$id/ctl"

# What is typed at its console, and what comes back.
said() { grep -c "$1" "$cloud/proc/$id/stdout"; }
long() { for _ in 1 2 3 4 5; do (soon "$@") && return; done; }
long "it boots" 1 said '^ready$'
echo 'share; cat /cloud/proc/*/limits; umount /cloud' >"$cloud/proc/$id/stdin"
soon "its guest sees the object's name space" 1 said 'mem=134217728'
echo 'i=0; while :; do echo count $i; i=$((i+1)); sleep 0.1; done &' >"$cloud/proc/$id/stdin"
soon "it counts" 1 said '^count 5$'

# Paused, it does nothing; then it goes on elsewhere, where it was.
echo stop >"$cloud/proc/$id/ctl"
echo start >"$cloud/proc/$id/ctl"
# Again, if it could not be done: it runs on where it was then, and cloudfs why tells why.
onward() {
	echo move n2 >"$cloud/.MaxTime=60/proc/$id/ctl" || cloudfs why >&2
	cat "$cloud/proc/$id/node"
}
soon "it runs on n2" n2 onward
last=$(grep -c '^count ' "$cloud/proc/$id/stdout")
long "it counts on" 1 said "^count $((last + 5))\$"
grep event=moved "$cloud/proc/$id/events"

# The power button.
echo signal TERM >"$cloud/proc/$id/ctl"
cat "$cloud/.follow/proc/$id/wait"
grep '^count ' "$cloud/proc/$id/stdout" >"$work/counted"
seq 0 "$(($(wc -l <"$work/counted") - 1))" | sed 's/^/count /' | cmp - "$work/counted"
