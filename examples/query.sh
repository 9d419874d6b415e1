#!/bin/sh
# Ask which nodes meet conditions and which is nearest, and run a program on such a one.
nodes=3
. "$(dirname "$0")/own-nodes"

# Nodes tell what they are: here one has a (pretended) graphics card and a price.
echo label gpu=a100 >"$cloud/nodes/n3/ctl"
echo price 0.5 >"$cloud/nodes/n2/ctl"
list() { ls "$cloud/query/$1"; }
soon "one node has such a card" n3 list label.gpu=a100
soon "two cost less than 0.1" "n1 n3" sh -c "ls '$cloud/query/price<0.1' | xargs"

# Each element of a path is one more condition; what is found are directories of nodes.
expect "all its files are there" n3 "$(sed 's/name=\([^ ]*\) .*/\1/' "$cloud"/query/cpus\>=1/label.gpu=a100/*/status)"
expect "nothing meets this" "" "$(ls "$cloud/query/label.gpu=a100/price>0.1")"

# The answer with its figures, how they were got, and how old they are.
cat "$cloud/query/sort=-price/.answer"
expect "the dearest comes first" n2 "$(sed -n '1s/node=\([^ ]*\) .*/\1/p' "$cloud/query/sort=-price/.answer")"

# The nearest is found by probes; the question may be written, and the answer read.
nearest() {
	exec 3<>"$cloud/net/cs"
	echo "near n2 count=2" >&3
	cat <&3 | grep -c ' how=measured .* probed=yes '
	exec 3>&-
}
soon "two nodes are measured from n2" 2 nearest

# The same words choose where a program runs.
id=$(cloudfs run --require label.gpu=a100 --prefer near=n2 sleep 1000)
soon "it runs where the card is" n3 sh -c "sed 's/.* node=\([^ ]*\) .*/\1/' '$cloud/proc/$id/status'"

# What cannot be meant is refused, with what to write instead.
ls "$cloud/query/mem.free>=4GB" 2>/dev/null || cloudfs why | tee /dev/stderr | grep -q 'mem.free>=4e9'
echo "ok: a wrong unit is told"
