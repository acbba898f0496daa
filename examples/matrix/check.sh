# check.sh ALGORITHM LENGTH: hashes "accel" once or a thousand times and looks only at the length of the digest.
set -eu
text=accel
if [ "$2" = long ]; then text=$(yes accel | head -n 1000); fi
digest=$(printf %s "$text" | "${ALGORITHM}sum" | cut -d ' ' -f 1)
case $1 in md5) expected=32 ;; sha1) expected=40 ;; sha256) expected=64 ;; esac
echo "$1 $2: ${#digest} hexadecimal digits"
[ "${#digest}" -eq "$expected" ]
