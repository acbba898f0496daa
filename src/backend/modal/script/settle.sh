# Looks at what the job left of the tree, ends what it left running, and leaves a word for the next run.
# Arguments: working directory, state folder, mark of the job's processes, word to leave, bytes of the edits of the
# list on stdin, lines of them that take lines away.
# Reads what something has happened to since the settling before, by its times and its inode, and what changed in the
# last seconds.
# Says `list DIGEST`; for each path of the list that is not as listed `F PATH`, or `D PATH` for a folder that differs
# in its mode alone; and at the end `settled`.
# A line of the list: f MODE SHA256 PATH | d MODE - PATH | l MODE TARGET PATH, parted by tabs; MODE as stat's %f.
work=$1 state=$2 mark=$3 word=$4 size=$5 gone=$6
fail() {
    echo "accel: $1" >&2
    exit 1
}
LC_ALL=C
export LC_ALL
umask 022
for tool in awk cut grep sed sha256sum sort stat tr xargs; do
    command -v "$tool" >/dev/null 2>&1 || fail "the image has no $tool"
done
read -r applied <"$state/applied" && [ "$applied" = "$mark" ] || fail "the tree was not brought up to date"
if read -r pid <"$state/pid"; then
    kill -KILL -- "-$pid" 2>/dev/null
fi
tries=0
while :; do
    found=$(grep -lF "ACCEL_EXEC=$mark" /proc/[0-9]*/environ 2>/dev/null)
    [ -n "$found" ] || break
    [ "$tries" -lt 4 ] || fail "processes of the job do not end"
    [ "$tries" -lt 2 ] || sleep 1
    for file in $found; do
        pid=${file#/proc/}
        kill -KILL "${pid%%/*}" 2>/dev/null
    done
    tries=$((tries + 1))
done
cat >"$state/edits" || fail "cannot write to the sandbox's disk"
[ "$(wc -c <"$state/edits")" -eq "$size" ] || fail "the list did not arrive whole"
: >>"$state/list"
if [ "$size" -gt 0 ]; then
    head -n "$gone" "$state/edits" >"$state/out"
    tail -n "+$((gone + 1))" "$state/edits" >"$state/in"
    if [ "$gone" -gt 0 ]; then
        grep -vxFf "$state/out" "$state/list" >"$state/old"
    else
        cat "$state/list" >"$state/old"
    fi
    # Both are sorted. Where sort cannot merge, it sorts.
    sort -m "$state/old" "$state/in" >"$state/list" || fail "cannot keep the list"
fi
digest=$(sha256sum <"$state/list") || fail "cannot read the list"
echo "list ${digest%% *}"
cd "$work" || fail "cannot enter $work"
cut -f 4 "$state/list" | tr '\n' '\000' |
    xargs -0 stat -c '%f	%n	%d %i %s %Y %Z' >"$state/stats" 2>/dev/null
rm -f "$state/due" "$state/links" "$state/rest" "$state/seen.new"
: >>"$state/seen" && : >"$state/seen.new" || fail "cannot write to the sandbox's disk"
now=$(stat -c %Z "$state/seen.new") || fail "cannot read the clock"
awk -F '	' -v state="$state" -v now="$now" '
# What nothing has happened to since it was looked at, down to its inode.
FILENAME == ARGV[1] { was[$0]; next }
# Lines of stat come in the order of the list, without those of paths that are gone.
!held { held = (getline line <(state "/stats")) > 0; split(line, stat, "\t") }
!held || stat[2] != $4 { print "F " $4; next }
{
    held = 0
    split(stat[3], part, " ")
    # A change that is to come may leave the same times on a file that has changed just now.
    if (part[5] + 2 < now) print line >(state "/seen.new")
}
stat[1] != $2 { print ($1 == "d" && stat[1] ~ /^4/ ? "D " : "F ") $4; next }
$1 == "f" && line in was { print $3 "  " $4 >(state "/rest"); next }
$1 == "f" { print $3 "  " $4 >(state "/due"); next }
$1 == "l" && !(line in was) { print >(state "/links") }
' "$state/seen" "$state/list" || fail "cannot compare the list"
if [ -s "$state/due" ]; then
    sha256sum -c "$state/due" >"$state/sums" 2>/dev/null
    [ "$(wc -l <"$state/sums")" -eq "$(wc -l <"$state/due")" ] || fail "cannot read the tree"
    sed -e '/: OK$/d' -e 's/: FAILED open or read$//' -e 's/: FAILED$//' -e 's/^/F /' "$state/sums"
fi
if [ -s "$state/links" ]; then
    while IFS='	' read -r _ _ target path; do
        [ "$(readlink "$path")" = "$target" ] || echo "F $path"
    done <"$state/links"
fi
mv "$state/seen.new" "$state/seen" && echo "$word" >"$state/word" || fail "cannot write to the sandbox's disk"
echo settled
# A write through a shared mapping leaves no times on a file everywhere. So the rest is read too, after the answer; where
# that finds something before the next run begins, there is no word for it.
if [ -s "$state/rest" ]; then
    {
        sha256sum -c "$state/rest" &
        echo "$!" >"$state/check"
        wait "$!"
        [ "$?" -ne 1 ] || ! read -r left <"$state/word" || [ "$left" != "$word" ] || rm -f "$state/word"
        rm -f "$state/check"
    } </dev/null >/dev/null 2>&1 &
fi
