_accel_jobs() {
    local -a jobs
    jobs=(${(f)"$(accel list --names 2>/dev/null)"})
    compadd -a jobs
}
