#!/bin/sh
# Say one thing to every node, or to a program on every node, in one shell line.
nodes=3
. "$(dirname "$0")/own-nodes"

# Every node gets a label.
echo label checked=today | tee "$cloud"/nodes/*/ctl >/dev/null
for n in "$cloud"/nodes/n*; do
	soon "${n##*/} has the label" checked=today cat "$n/labels"
done

# A program on every node, each waiting for a word.
# shellcheck disable=SC2016
for n in "$cloud"/nodes/n*; do
	cloudfs run --on "${n##*/}" --app listener sh -c 'read word; echo $(hostname): $word' >/dev/null
done

listeners() { ls -d "$cloud"/view/by-app/listener/*/ | grep -c .; }
soon "all listen" "$nodes" listeners

# The line itself: one writer, every standard input.
echo good morning | tee "$cloud"/view/by-app/listener/*/stdin >/dev/null

heard() { cat "$cloud"/view/by-app/listener/*/stdout | grep -c ': good morning$'; }
soon "all have heard it" "$nodes" heard

# The same through the nodes' own directories.
through() { cat "$cloud"/nodes/n*/proc/*/stdout | grep -c ': good morning$'; }
soon "each node has its own" "$nodes" through
