# Sends a signal to the job's process group, or to the one process where it has no group of its own.
# Arguments: state folder, signal without SIG, kind of the job's input (see run.sh).
read -r pid <"$1/pid" || exit 0
if [ "$3" = terminal ]; then
    # What is in the foreground has a group of its own, and shells leave a terminal only when it hangs up.
    if read -r stat 2>/dev/null <"/proc/$pid/stat"; then
        set -- "$1" "$2" ${stat##*") "}
        [ "${8:-0}" -gt 1 ] && kill -s "$2" -- "-$8" 2>/dev/null
    fi
    kill -s "$2" -- "-$pid" 2>/dev/null
    kill -s HUP -- "-$pid" 2>/dev/null
    exit 0
fi
kill -s "$2" -- "-$pid" 2>/dev/null || kill -s "$2" "$pid" 2>/dev/null
exit 0
