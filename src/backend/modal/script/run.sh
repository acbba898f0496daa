# Makes the working directory from the mounted tree and becomes the job's command.
# Arguments: mount, working directory, state folder, word for accel's own failures, bytes of the delta's script on
# stdin (0: no delta), bytes of all of the delta, folder to run in (relative), what the command reads (none | standard |
# terminal; only with none may there be a delta), shell | argv, command...
# Needs: a POSIX sh, cat, cp, mkdir; for trees with links, modes or deltas also chmod, head, ln, rm, tail, wc.
mount=$1 work=$2 state=$3 word=$4 script=$5 size=$6 folder=$7 input=$8 kind=$9
shift 9
fail() {
    echo "accel: $2 [$word]" >&2
    exit "$1"
}
umask 022
mkdir -p "$state" "$work" && echo "$$" >"$state/pid" || fail 125 "cannot write to the sandbox's disk"
if [ -d "$mount/tree" ]; then
    cp -Rp "$mount/tree/." "$work/" || fail 125 "cannot copy the tree to $work"
fi
cd "$work" || fail 125 "cannot enter $work"
. "$mount/finish.sh" || fail 125 "cannot finish the tree in $work"
if [ "$script" -gt 0 ]; then
    cat >"$state/delta" || fail 125 "cannot receive the changes of the tree"
    [ "$(wc -c <"$state/delta")" -eq "$size" ] || fail 125 "the changes of the tree did not arrive whole"
    head -c "$script" "$state/delta" >"$state/delta.sh" || fail 125 "cannot unpack the changes of the tree"
    put() {
        rm -rf "$3" && tail -c "+$1" "$state/delta" | head -c "$2" >"$3"
    }
    . "$state/delta.sh" || fail 125 "cannot apply the changes of the tree"
    rm -f "$state/delta" "$state/delta.sh"
fi
[ "$input" != none ] || exec </dev/null
cd "$folder" || fail 125 "cannot enter $folder"
if [ "$kind" = shell ]; then
    if command -v bash >/dev/null 2>&1; then
        set -- bash -euo pipefail -c "$1"
    else
        set -- sh -eu -c "$1"
    fi
elif ! command -v "$1" >/dev/null 2>&1; then
    echo "accel: $1: command not found" >&2
    exit 127
fi
unset mount work script size folder kind
# A terminal belongs to the session that it was made for: its leader stays what it is.
if [ "$input" = terminal ]; then
    unset input
    exec "$@"
fi
unset input
# Its own process group, so that a stop reaches all of it; the process stays the one that was noted.
group=
if read -r stat 2>/dev/null <"/proc/$$/stat"; then
    group=${stat##*") "}
    group=${group#* }
    group=${group#* }
    group=${group%% *}
fi
if [ "$group" != "$$" ] && command -v setsid >/dev/null 2>&1; then
    exec setsid "$@"
fi
exec "$@"
