# Read by an interactive zsh that completes one line: prints what is offered instead of showing it, and ends.
PROMPT='' RPROMPT=''
fpath=($PWD/functions $fpath)
autoload -Uz compinit
compinit -u -D
bindkey '^I' complete-word
compadd() {
    # Calls that only fill arrays are the completion's own.
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
        builtin compadd "$@"
        return
    fi
    local -a offered
    builtin compadd -A offered "$@"
    local word
    for word in $offered; do print -r -- "offered:$word"; done
}
finish() {
    print -r -- END
    exit
}
comppostfuncs=(finish)
print -r -- READY
