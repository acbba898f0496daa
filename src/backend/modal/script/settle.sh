# Looks at what the job left of the tree, ends what it left running, and leaves a word for the next run.
# Arguments: working directory, state folder, mark of the job's processes, word to leave, bytes of the edits of the
# list on stdin, lines of them that take lines away.
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
for tool in sha256sum stat xargs grep sed sort tr; do
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
    sort "$state/old" "$state/in" >"$state/list" || fail "cannot keep the list"
fi
digest=$(sha256sum <"$state/list") || fail "cannot read the list"
echo "list ${digest%% *}"
cd "$work" || fail "cannot enter $work"
sed -n 's/^[fdl]	\([^	]*\)	[^	]*	/\1 /p' "$state/list" >"$state/modes"
sed 's/^[^ ]* //' "$state/modes" | tr '\n' '\000' | xargs -0 stat -c '%f %n' >"$state/now" 2>/dev/null
if [ "$(sha256sum <"$state/modes")" != "$(sha256sum <"$state/now")" ]; then
    grep -vxFf "$state/now" "$state/modes" | while IFS= read -r line; do
        path=${line#* } kind=F
        case $line in
        4*) if [ -d "$path" ] && [ ! -L "$path" ]; then kind=D; fi ;;
        esac
        echo "$kind $path"
    done
fi
sed -n 's/^f	[^	]*	\([^	]*\)	/\1  /p' "$state/list" >"$state/sums"
if [ -s "$state/sums" ]; then
    sha256sum -c "$state/sums" 2>/dev/null |
        sed -e '/: OK$/d' -e 's/: FAILED open or read$//' -e 's/: FAILED$//' -e 's/^/F /'
fi
sed -n '/^l/p' "$state/list" | while IFS='	' read -r _ _ target path; do
    [ "$(readlink "$path")" = "$target" ] || echo "F $path"
done
echo "$word" >"$state/word" || fail "cannot write to the sandbox's disk"
echo settled
