# What the suite xfstests does not know of file systems over FUSE: how to make one anew, of some size, and how to cut one off.
# Its common/rc reads this at its end (see build_xfstests in scripts/test.sh); xfstests.sh sets the variables.

[ "$FSTYP" = fuse ] || return 0

_scratch_mkfs() {
    "$FUSE_MKFS_PROG" "$SCRATCH_DEV"
}

_try_scratch_mkfs_sized() { # bytes
    "$FUSE_MKFS_PROG" "$SCRATCH_DEV" "$1"
}

_scratch_shutdown() {
    "$FUSE_KILL_PROG" "$SCRATCH_DEV"
}

_require_scratch_shutdown() {
    _scratch_mkfs >/dev/null 2>&1 || _notrun "$SCRATCH_DEV cannot be made"
    _scratch_mount
    _scratch_shutdown
    _scratch_unmount
}
