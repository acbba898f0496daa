
# Names of jobs, where a command takes them.
_accel_with_jobs() {
    _accel "$@"
    local word command=
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case "$word" in
            --) return ;;
            run | r | plan | explain | exec | shell | logs | stop) command=$word ;;
        esac
    done
    if [[ -n $command && ${COMP_WORDS[COMP_CWORD]} != -* ]]; then
        COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" list --names 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
    fi
}
complete -F _accel_with_jobs -o nosort -o bashdefault -o default accel
