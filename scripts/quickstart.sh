#!/usr/bin/env bash
# From a fresh Debian machine to a mounted volume:  bash scripts/quickstart.sh [DIR]
#
# Installs what is missing (fuse3, a C compiler, Rust), builds the release binary, formats a volume whose metadata are a
# SQLite file and whose objects are files, both below ~/.juicefs/quickstart, and mounts it on DIR (default ~/jfs).
# Running it again finds everything in place and changes nothing.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=${JFS_QUICKSTART_HOME:-$HOME}
base=$home/.juicefs/quickstart
dir=$(realpath -ms "${1:-$home/jfs}")
name=quickstart

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

# A mount hides what its directory held before.
case "$root/" in
    "$dir"/*) fail "this repository is in $dir and would be hidden by the mount: give another directory, as ~/jfs-mount" ;;
esac

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else fail "root is needed for: $*  (run as root, or install sudo)"; fi
}

install_packages() {
    local missing=()
    command -v fusermount3 >/dev/null || missing+=(fuse3)
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    if ! find_cargo; then
        command -v curl >/dev/null || missing+=(curl ca-certificates)
    fi
    [ ${#missing[@]} -eq 0 ] && return
    say "installing ${missing[*]}"
    command -v apt-get >/dev/null || fail "install these with your package manager, then run this again: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# A cargo that is in the PATH is taken as it is; else the one that rustup put into its usual place.
find_cargo() {
    command -v cargo >/dev/null && return 0
    [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] || return 1
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
}

install_rust() {
    find_cargo && return
    say "installing Rust with rustup (for this user only)"
    if ! curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --no-modify-path; then
        say "rustup.rs cannot be reached: trying the package"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rustup
        (cd "$root" && rustup show >/dev/null)
    fi
    find_cargo || fail "there is still no cargo: install Rust from https://rustup.rs, then run this again"
}

build() {
    say "building (the first time takes some minutes)"
    (cd "$root" && cargo build --release --locked --package juicefs-cli)
    juicefs=${CARGO_TARGET_DIR:-$root/target}/release/juicefs
    [ -x "$juicefs" ] || fail "the build left no $juicefs"
}

mounted_here() {
    # Looks at the table and not at the directory, which a dead mount would hang or refuse.
    local at=${1// /\\040}
    cut -d' ' -f2,3 /proc/self/mounts | grep -qxF "$at fuse.juicefs"
}

format_and_mount() {
    mkdir -p "$base/objects"
    say "formatting the volume $name in $base"
    "$juicefs" format --no-update --storage file --bucket "$base/objects" "sqlite3://$base/meta.db" "$name"
    if mounted_here "$dir" && [ -d "$dir" ]; then
        say "$dir is mounted already"
    else
        say "mounting it on $dir"
        "$juicefs" mount -d --cache-dir "$base/cache" --log "$base/juicefs.log" "sqlite3://$base/meta.db" "$dir"
    fi
}

show() {
    if [ ! -e "$dir/hello.txt" ]; then
        echo "Hello from JuiceFS in Rust" > "$dir/hello.txt"
    fi
    say "$dir is an ordinary directory now"
    df -h "$dir"
    ls -l "$dir"
    printf '\n$ cat %s\n' "$dir/hello.txt"
    cat "$dir/hello.txt"
    cat <<END

Try it:      cp -r /etc $dir/ ; git -C $dir init project
Look at it:  $juicefs status sqlite3://$base/meta.db
Measure it:  $juicefs bench $dir
Unmount it:  $juicefs umount $dir
Remove it:   $juicefs umount $dir ; rm -rf $base
END
}

install_packages
install_rust
[ -e /dev/fuse ] || as_root modprobe fuse 2>/dev/null || true
[ -e /dev/fuse ] || fail "there is no /dev/fuse: the kernel has no FUSE, or this container was not given the device"
build
format_and_mount
show
