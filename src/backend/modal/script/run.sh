# Makes the working directory from the mounted tree, or brings that of a kept sandbox up to date, and becomes the job's
# command.
# Arguments: mount, working directory, state folder, word for accel's own failures, mark of the job's processes, bytes
# of the delta's script on stdin (0: no delta), bytes of all of the delta, folder to run in (relative), what the command
# reads (none | standard | terminal; only with none may there be a delta), word that a kept sandbox was left with
# (empty: a fresh one), shell | argv, command...
# Needs: a POSIX sh, cat, cp, mkdir; for trees with links, modes or deltas also chmod, head, ln, rm, rmdir, tail, wc.
mount=$1 work=$2 state=$3 word=$4 mark=$5 script=$6 size=$7 folder=$8 input=$9 step=${10} kind=${11}
shift 11
# A kept sandbox in which anything goes wrong before the command is given up for a fresh one.
fail() {
    [ -z "$step" ] || set -- 125 "out of step"
    echo "accel: $2 [$word]" >&2
    exit "$1"
}
umask 022
mkdir -p "$state" "$work" && echo "$$" >"$state/pid" || fail 125 "cannot write to the sandbox's disk"
if [ -n "$step" ]; then
    read -r left <"$state/word" && [ "$left" = "$step" ] || fail 125 "not as it was left"
elif [ -d "$mount/tree" ]; then
    cp -Rp "$mount/tree/." "$work/" || fail 125 "cannot copy the tree to $work"
fi
# From here to the next settling nobody may take it to be in step, and nobody needs to look through it.
if [ -n "$step" ]; then
    if [ -s "$state/check" ] && read -r left <"$state/check"; then kill "$left" 2>/dev/null; fi
    rm -f "$state/word" "$state/applied" "$state/check" || fail 125 "cannot write to the sandbox's disk"
fi
cd "$work" || fail 125 "cannot enter $work"
if [ -z "$step" ]; then
    . "$mount/finish.sh" || fail 125 "cannot finish the tree in $work"
fi
if [ "$script" -gt 0 ]; then
    cat >"$state/delta" || fail 125 "cannot receive the changes of the tree"
    [ "$(wc -c <"$state/delta")" -eq "$size" ] || fail 125 "the changes of the tree did not arrive whole"
    head -c "$script" "$state/delta" >"$state/delta.sh" || fail 125 "cannot unpack the changes of the tree"
    put() {
        rm -rf "$3" && tail -c "+$1" "$state/delta" | head -c "$2" >"$3"
    }
    # What a job has put into a folder stays, and with it the folder.
    gone() {
        if [ -d "$1" ] && [ ! -L "$1" ]; then rmdir "$1" 2>/dev/null || :; else rm -f "$1"; fi
    }
    folder() {
        if [ -d "$1" ] && [ ! -L "$1" ]; then chmod 0755 "$1"; else rm -rf "$1" && mkdir -p "$1"; fi
    }
    . "$state/delta.sh" || fail 125 "cannot apply the changes of the tree"
    rm -f "$state/delta" "$state/delta.sh"
fi
echo "$mark" >"$state/applied" || fail 125 "cannot write to the sandbox's disk"
step=
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
unset mount work script size folder kind step left
ACCEL_EXEC=$mark
export ACCEL_EXEC
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
