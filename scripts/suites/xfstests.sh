#!/usr/bin/env bash
# Runs xfstests on two fresh volumes:  xfstests.sh CLIENT SUITE WORK [arguments of ./check; by default -g quick]
#
# CLIENT is a juicefs binary, SUITE a built checkout of xfstests that reads xfstests-rc.sh, WORK a directory that is not there
# yet, on a local disk with 20 GiB free. WORK/outcomes then has a line `name pass|fail|notrun reason` for each test,
# WORK/results what they printed, WORK/*.log what the clients logged. It needs root, and what the suite needs: the
# packages and users that scripts/test.sh --full installs.
#
#   MOUNT_FLAGS   more flags for `juicefs mount`
#   TEST_LIMIT_S  a test that takes longer is ended, and has failed (default: 900)
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
# In a mount namespace of its own: whoever copies the common mount table would keep these mounts busy after umount.
[ -n "${SUITE_NAMESPACE:-}" ] || SUITE_NAMESPACE=1 exec unshare --mount --propagation private -- bash "$0" "$@"

rc=$(dirname "$(readlink -f "$0")")/xfstests-rc.sh
client=$(readlink -f "$1") suite=$(readlink -f "$2") work=$(readlink -m "$3")
shift 3
[ $# -gt 0 ] || set -- -g quick
limit_s=${TEST_LIMIT_S:-900}
# Times are exact and internal files are out of the way, as on the file systems that the suite was written for.
mount_flags="--no-usage-report --backup-meta 0 --enable-xattr --enable-cap --enable-ioctl --hide-internal \
--skip-dir-mtime 0 --atime-mode strictatime ${MOUNT_FLAGS:-}"
# mount(8) finds the client by the type of the file system. The name is that of this run alone.
type=jfs$$
helper=/sbin/mount.fuse.$type
mkdir "$work" "$work/test" "$work/scratch" "$work/results"

# Makes a file system, as the suite asks for it: mkfs JuiceFS:NAME [BYTES]. The trash is off: tests of free space would
# measure it.
cat >"$work/mkfs" <<MKFS
#!/bin/bash -e
name=\${1#JuiceFS:}
rm -rf "$work/\$name.db"* "$work/objects/\$name" "$work/cache-\$name"
exec "$client" format --storage file --bucket "$work/objects/" --trash-days 0 --enable-acl \${2:+--capacity "\${2}B"} \
    "sqlite3://$work/\$name.db" "\$name" >>"$work/format.log" 2>&1
MKFS

# What the suite means by shutting a file system down: its client is killed. kill JuiceFS:NAME
cat >"$work/kill" <<KILL
#!/bin/bash
clients() { pgrep -f -- "sqlite3://$work/\${1#JuiceFS:}.db"; }
for pid in \$(clients "\$1"); do kill -KILL "\$pid"; done
while clients "\$1" >/dev/null; do sleep 0.05; done
KILL

# What mount(8) starts: JuiceFS:NAME DIRECTORY [-sfnv] -o OPTIONS. A remount is between the kernel and its flags. Native
# file systems have set-id bits and device nodes, which a mount by FUSE has not without being told.
cat >"$work/mount" <<MOUNT
#!/bin/bash
name=\${1#JuiceFS:} point=\$2 options=
shift 2
while [ \$# -gt 0 ]; do
    [ "\$1" != -o ] || { options=\$2; shift; }
    shift
done
[[ ,\$options, != *,remount,* ]] || exec mount -i -o "\$options" "\$point"
"$client" mount -d $mount_flags --cache-dir "$work/cache-\$name" --log "$work/\$name.log" \
    -o "suid,dev\${options:+,\$options}" "sqlite3://$work/\$name.db" "\$point" </dev/null >>"$work/mount.log" 2>&1 || exit 32
[ -z "${JUICEFS_TEST_PIDS:-}" ] || pgrep -f -- "sqlite3://$work/\$name.db" >>"${JUICEFS_TEST_PIDS:-}"
MOUNT

# The suite looks for the type `fuse` in the output of df, where the kernel says fuse.juicefs.
cat >"$work/df" <<'DF'
#!/bin/bash
set -o pipefail
df -T -P "$@" | sed 's/ fuse\.juicefs / fuse /'
DF
chmod +x "$work/mkfs" "$work/kill" "$work/mount" "$work/df"

check='' watching=''
kill_tree() { # pid
    local child
    for child in $(pgrep -P "$1"); do kill_tree "$child"; done
    kill -KILL "$1" 2>/dev/null || true
}

finish() {
    [ -z "$watching" ] || kill_tree "$watching"
    [ -z "$check" ] || kill_tree "$check"
    umount -q "$work/scratch" || true
    umount -q "$work/test" || true
    rm -f "$helper"
}
trap finish EXIT
trap 'exit 130' INT TERM
"$work/mkfs" JuiceFS:xtest
"$work/mkfs" JuiceFS:xscratch
ln -s "$work/mount" "$helper"
cat >"$work/local.config" <<CONFIG
export FUSE_RC=$rc
export FSTYP=fuse FUSE_SUBTYP=.$type FUSE_MKFS_PROG=$work/mkfs FUSE_KILL_PROG=$work/kill DF_PROG=$work/df
export TEST_DEV=JuiceFS:xtest TEST_DIR=$work/test
export SCRATCH_DEV=JuiceFS:xscratch SCRATCH_MNT=$work/scratch
export RESULT_BASE=$work/results
CONFIG

# A test that hangs must not take the run with it.
watch() { # pid of ./check
    local pid age line
    while sleep 5; do
        while read -r pid age line; do
            if [[ $line == *tests/*/[0-9]* ]] && [ "$age" -gt "$limit_s" ]; then
                echo "ended after $age s: $line" | tee -a "$work/ended"
                kill_tree "$pid"
            fi
        done < <(ps -o pid=,etimes=,args= --ppid "$1")
    done
}

cd "$suite"
# What some tests print depends on where their own files lie: it must have no dot in its path.
TMPDIR=/tmp HOST_OPTIONS=$work/local.config ./check "$@" >"$work/check.out" 2>&1 </dev/null &
check=$!
watch $check &
watching=$!
wait $check || true
check=''
kill_tree $watching
watching=''

names() { sed -n "s/^$1: *//p" "$work/check.out" | tail -n 1 | tr ' ' '\n' | grep / | sort -u || true; }
names Ran >"$work/ran"
names "Not run" >"$work/not-run"
names Failures >"$work/failed"
# Without these lines the run was cut short, and says nothing.
if [ ! -s "$work/ran" ] || grep -q '^Interrupted!' "$work/check.out"; then
    tail -n 20 "$work/check.out"
    exit 2
fi
while read -r test; do
    if grep -qx "$test" "$work/not-run"; then
        echo "$test notrun $(tr '\n' ' ' <"$work/results/$test.notrun")"
    elif grep -qx "$test" "$work/failed"; then
        echo "$test fail $(diff "tests/$test.out" "$work/results/$test.out.bad" | sed -n 's/^[<>] //p' | head -n 1)"
    else
        echo "$test pass"
    fi
done <"$work/ran" | sed "s,$work/,,g; s,$suite/,,g; s/ *$//" >"$work/outcomes"
while read -r test; do
    printf -- '--- %s\n' "$test"
    diff "tests/$test.out" "$work/results/$test.out.bad" | head -n 30 || true
done <"$work/failed"
for kind in pass fail notrun; do printf '%s %s  ' "$(grep -c "^[^ ]* $kind" "$work/outcomes" || true)" "$kind"; done
echo
