
# Names of jobs, where a command takes them.
complete -c accel -n "__fish_seen_subcommand_from run r plan explain" -f -a "(accel list --names 2>/dev/null)"
