#!/bin/sh
# A first session: a program is run, watched, stopped and killed with cat, echo and ls,
# in a cloud of this script's own.
. "$(dirname "$0")/own-cloud"

# This machine is a node, and what it has is in files.
cd "$cloud"/nodes/*/
expect "the node counts its processors" "$(nproc --all)" "$(cat cpus)"
cd /

# Reading clone makes an object; writing to its ctl runs a program in it.
id=$(cat "$cloud/proc/clone")
echo app hello >"$cloud/proc/$id/ctl"
echo exec sh -c "'echo hello, cloud; exec sleep 600'" >"$cloud/proc/$id/ctl"
expect "clone gives an id of 16 letters" 16 "${#id}"

# Its output is a file, which can be read at any time; under .follow it goes on as it
# comes, so head has its line as soon as there is one.
expect "its output, as it comes" "hello, cloud" "$(head -n 1 "$cloud/.follow/proc/$id/stdout")"
expect "its output, again" "hello, cloud" "$(cat "$cloud/proc/$id/stdout")"

# Its state is a word in a record, and views show the same object in other places.
state() { sed 's/.* state=\([a-z]*\) .*/\1/' "$cloud/proc/$id/status"; }
expect "it runs" running "$(state)"
expect "it is seen among its application's" "$id" "$(ls "$cloud/view/by-app/hello" | grep -x "$id")"

# Verbs change it.
echo stop >"$cloud/proc/$id/ctl"
expect "it is stopped" stopped "$(state)"
echo start >"$cloud/proc/$id/ctl"
expect "it runs again" running "$(state)"

# A wrong verb gives an error, and the tree keeps the reason.
if (echo dance >"$cloud/proc/$id/ctl") 2>/dev/null; then
	expect "a wrong verb is refused" refused done
fi
expect "the reason names the verb" 1 "$(cloudfs why | grep -c dance)"

# Another shell line waits for its end while this one kills it.
cat "$cloud/.follow/proc/$id/wait" >"$work/end" &
echo kill >"$cloud/proc/$id/ctl"
wait $!
expect "wait tells how it ended" KILL "$(sed 's/.* signal=\([A-Z]*\) .*/\1/' "$work/end")"

# The command line does the same things in fewer words.
expect "a program's output comes back" 42 "$(cloudfs run --wait expr 6 '*' 7)"
status=0
cloudfs run --wait sh -c 'exit 3' || status=$?
expect "and its exit status" 3 "$status"

# Everything of the tree can be looked at: nothing blocks, nothing is made by looking.
before=$(ls "$cloud/proc" | wc -l)
grep -r hello "$cloud" >"$work/found" 2>/dev/null || true
expect "grep -r finds it" 1 "$(grep -c "^$cloud/proc/$id/stdout:hello, cloud" "$work/found")"
expect "looking makes nothing" "$before" "$(ls "$cloud/proc" | wc -l)"
