
# Names of jobs, where a command takes them; after `--` come the arguments of the job's command.
complete -c accel -n "__fish_seen_subcommand_from run r plan explain exec shell logs stop; and not contains -- -- (commandline -opc)" -f -a "(accel list --names 2>/dev/null)"
