#!/bin/sh
# The nearest nodes and what it costs to reach them, by reading files; then one measured now.
nodes=3
. "$(dirname "$0")/own-nodes"

measured() { grep -c measured "$cloud/net/latency"; }
soon "both others are measured" 2 measured

# The line itself: node, seconds there and back, how old that is, how it was got, its error.
sort -n -k2 "$cloud/net/latency" | head -3

nearest=$(sort -n -k2 "$cloud/net/latency" | head -1 | cut -d ' ' -f 1)
echo probe count=10 >"$cloud/net/$nearest/ctl"
cat "$cloud/net/$nearest/latency"
expect "it was measured just now" measured \
	"$(sed 's/.* how=\([a-z]*\) .*/\1/' "$cloud/net/$nearest/latency")"

# The same network as another node sees it.
seen() { cut -d ' ' -f 1 "$cloud/nodes/n2/net/latency" | xargs; }
soon "n2 sees n1 and n3" "n1 n3" seen
