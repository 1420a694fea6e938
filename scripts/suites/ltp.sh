#!/usr/bin/env bash
# Builds what the tests need of the Linux Test Project:  bash scripts/suites/ltp.sh DIR
#
# DIR is a checkout of it; when there is none, the release below is fetched. Only the folders of system calls that
# ask something of a file system are built (ltp-folders.txt), and fsstress. What is built already stays as it is.
set -euo pipefail

# The release whose tests are counted in tests/tests/suite/ltp.rs.
release=20260529

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -eq 1 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }
dir=$1

fetch() {
    git init --quiet "$dir"
    git -C "$dir" fetch --quiet --depth 1 https://github.com/linux-test-project/ltp "refs/tags/$release"
    git -C "$dir" checkout --quiet FETCH_HEAD
}

build() {
    local part
    [ -x configure ] || make autotools
    [ -e include/mk/config.mk ] || ./configure
    for part in lib libs testcases/lib "${folders[@]/#/testcases/kernel/syscalls/}" testcases/kernel/fs/fsstress; do
        make -j "$(nproc)" -C "$part" || return
    done
}

[ -e "$dir/runtest/syscalls" ] || fetch
mapfile -t folders < <(grep -v '^#' "$here/ltp-folders.txt")
cd "$dir"
# Some thousand lines, which say something only when it fails.
build >build.log 2>&1 || { tail -n 30 build.log >&2; exit 1; }
