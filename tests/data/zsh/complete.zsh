# Types a line and a tab into an interactive zsh; prints what that offers, one a line.
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'source ./setup.zsh'
zpty -r -m shell said '*READY*'
zpty -w -n shell "$1"$'\t'
typed=
while zpty -r shell said; do
    typed+=$said
    [[ $said == *END* ]] && break
done
print -r -- $typed | tr '\r' '\n' | sed -n 's/.*offered://p'
