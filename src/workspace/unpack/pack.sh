root=$1 wanted=$2 python=$3
shift 3
if command -v python3 >/dev/null 2>&1; then
  exec python3 -I -S -c "$python" "$root" "$wanted" "$@"
fi
for tool in tar find grep; do
  command -v $tool >/dev/null 2>&1 || { echo "accel: outputs need python3, or tar, find and grep, in the image" >&2; exit 127; }
done
cd "$root" || exit 1
for start do
  shift
  case $start in .) ;; *) start=./$start ;; esac
  { [ -e "$start" ] || [ -L "$start" ]; } && set -- "$@" "$start"
done
[ $# -gt 0 ] || set -- /dev/null
wanted="^\\./($wanted)\$"
list() { find "$@" -name .git -prune -o \( -type f -o -type l -o -type d \) ! -path . -print0; }
if tar --version 2>/dev/null | grep -q GNU; then
  list "$@" | LC_ALL=C grep -zE "$wanted" | tar --null --no-recursion --hard-dereference --owner=0 --group=0 -cf - -T -
else
  list "$@" | LC_ALL=C grep -zE "$wanted" | tr '\0' '\n' | tar --no-recursion -cf - -T -
fi
