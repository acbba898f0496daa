# Sends a signal to the job's process group, or to the one process where it has no group of its own.
# Arguments: state folder, signal without SIG.
read -r pid <"$1/pid" || exit 0
kill -s "$2" -- "-$pid" 2>/dev/null || kill -s "$2" "$pid" 2>/dev/null
exit 0
