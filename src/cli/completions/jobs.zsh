_accel_jobs() {
    # After `--` come the arguments of the job's command.
    if (( ${words[(I)--]} && ${words[(I)--]} < CURRENT )); then
        _default
        return
    fi
    local -a names
    names=(${(f)"$(accel list --names 2>/dev/null)"})
    compadd -a names
}
