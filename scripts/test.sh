#!/usr/bin/env bash
# Everything that is tested, from a fresh clone on a fresh Debian 12 machine:
#
#   bash scripts/test.sh               what every change has to pass
#   bash scripts/test.sh --full        the long variants of it, each engine, and the suites of others: all parts
#   bash scripts/test.sh --full PART   one part of that, which takes at most an hour on two cores:
#
#     unit       lints, unit, property and conformance tests; licences, bans, sources and advisories; quickstart
#     sqlite-1   the end-to-end suite on SQLite: random I/O, crashes, several mounts, applications
#     sqlite-2   the rest of it
#     redis-1    the end-to-end suite on Redis, likewise
#     redis-2    the rest of it
#     cluster-1  the end-to-end suite on a Redis cluster, likewise
#     cluster-2  the rest of it
#     suites     pjdfstest in C on both engines, the Linux Test Project
#     xfstests   the quick group of xfstests
#     stress     fsstress, stress-ng
#     apps       PostgreSQL on both engines, Python's own tests
#     interop    beside the other client, whose binary JUICEFS_GO names
#
# Installs what is missing, checks the formatting and the lints, runs the unit, property and conformance tests, and
# then the end-to-end suite on real mounts, and a part of that on Redis. It needs root (for mounts). Nothing is skipped
# silently: what is missing is installed, or is a failure. A green run of a clean work tree notes its commit in
# target/last-green, that of a part in target/last-green-PART.
#
#   JFS_GOLDEN           the golden volumes (default: ../shared/golden beside the repository)
#   JUICEFS_TEST_SEED    replays the random tests with one seed
#   JUICEFS_BIN          tests this client instead of the one that is built here
#   JUICEFS_TEST_S3_SERVER  runs this S3 server instead of the one that is built here
#   JUICEFS_TEST_PJDFSTEST  a checkout of pjdfstest in C for --full, instead of the one that is fetched
#   JUICEFS_TEST_LTP     a checkout of the Linux Test Project for --full, instead of the one that is fetched
#   JUICEFS_TEST_XFSTESTS  likewise of xfstests
set -euo pipefail
umask 022

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
full=0
all_parts=(unit sqlite-1 sqlite-2 redis-1 redis-2 cluster-1 cluster-2 suites xfstests stress apps interop)
parts=()

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "$0"; exit 2; }

case "${1:-}" in
    "") ;;
    --full) full=1; parts=("${all_parts[@]}") ;;
    *) usage ;;
esac
if [ $# -gt 1 ]; then
    [[ " ${all_parts[*]} " == *" $2 "* ]] || usage
    parts=("$2")
fi
[ $# -le 2 ] || usage

target=${CARGO_TARGET_DIR:-$root/target}
tools=${JUICEFS_TEST_TOOLS:-$target/tools/bin}
golden=${JFS_GOLDEN:-$root/../shared/golden}
# One profile for everything, so that each dependency is compiled once.
profile=ci
failed_stages=()
unchecked=()
# What runs on Redis without --full: where the engine matters most, in some three minutes. On a cluster: where keys are found by
# others, and where many are changed at once.
cluster_part=(trash:: quota:: acl:: locks:: names:: links::)
redis_part=(posix:: crash:: concurrent:: two_mounts:: locks:: differential:: full_disk:: names:: cli::)

# The half of the end-to-end suite that takes long with --full; the other half is all that is not named here.
long_half=(random_io:: crash:: two_mounts:: apps:: locks:: concurrent:: differential:: redis_together::)

say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }
die() { printf 'test.sh: %s\n' "$*" >&2; exit 1; }

# Packages by the command that shows that they are there.
install_packages() {
    local entry missing=()
    for entry in fusermount3:fuse3 cc:gcc make:make git:git fio:fio rsync:rsync sqlite3:sqlite3 setfattr:attr \
        chattr:e2fsprogs mkfs.ext4:e2fsprogs python3:python3 curl:curl tar:tar useradd:passwd setpriv:util-linux flock:util-linux \
        redis-server:redis-server redis-cli:redis-tools openssl:openssl setfacl:acl; do
        command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
    done
    if [ $full -eq 1 ]; then
        for entry in prove:perl autoreconf:autoconf aclocal:automake libtool:libtool-bin gawk:gawk bc:bc xfs_io:xfsprogs \
            quota:quota dump:dump killall:psmisc capsh:libcap2-bin pkg-config:pkgconf keyctl:keyutils stress-ng:stress-ng; do
            command -v "${entry%%:*}" >/dev/null || missing+=("${entry#*:}")
        done
        # Without these headers tests of the suites are built that do nothing.
        for entry in xfs/xfs.h:xfslibs-dev uuid/uuid.h:uuid-dev attr/attributes.h:libattr1-dev sys/acl.h:libacl1-dev \
            libaio.h:libaio-dev sys/capability.h:libcap-dev gdbm.h:libgdbm-dev liburing.h:liburing-dev; do
            [ -e "/usr/include/${entry%%:*}" ] || missing+=("${entry#*:}")
        done
        compgen -G "/usr/lib/postgresql/*/bin/pgbench" >/dev/null || missing+=(postgresql)
    fi
    [ -e /usr/include/stdio.h ] || missing+=(libc6-dev)
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
    # Named after the version of Python, which is known only now.
    if [ $full -eq 1 ] && ! /usr/bin/python3 -c 'import test.test_os' 2>/dev/null; then
        apt_install "lib$(/usr/bin/python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')-testsuite"
    fi
}

apt_install() { # packages...
    local service
    say "installing $*"
    command -v apt-get >/dev/null || die "install these with your package manager: $*"
    apt-get update -qq
    without_services env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    # The tests start servers of their own: those of the packages shall not come up with the next boot either.
    for service in redis-server postgresql; do
        if [[ " $* " == *" $service "* ]] && [ -d /run/systemd/system ]; then
            systemctl disable --quiet --now $service || die "the service $service of the package is still enabled"
        fi
    done
}

# Runs a command with Debian's switch that keeps packages from starting their services.
without_services() (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
    fi
    "$@"
)

install_rust() {
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    if ! command -v cargo >/dev/null; then
        say "installing Rust"
        if ! curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --no-modify-path; then
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rustup
        fi
    fi
    # The toolchain file names the version and its components; rustup fetches what is not there yet.
    cargo fmt --version >/dev/null && cargo clippy --version >/dev/null || die "cargo, rustfmt or clippy is missing"
}

install_tool() { # crate version
    "$tools/$1" --version 2>/dev/null | grep -qF " $2" && return
    say "building the test tool $1 $2"
    CARGO_TARGET_DIR=$target/tools-build CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
        cargo install --quiet --locked --root "$(dirname "$tools")" --version "$2" "$1"
}

prepare() {
    [ "$(id -u)" -eq 0 ] || die "root is needed: the tests mount file systems"
    install_packages
    install_rust
    [ -e /dev/fuse ] || modprobe fuse || true
    [ -e /dev/fuse ] || die "there is no /dev/fuse"
    [ -f "$golden/verify.py" ] || die "no golden volumes in $golden: set JFS_GOLDEN"
    id tests >/dev/null 2>&1 || useradd -M tests
    install_tool pjdfstest 0.2.2
    install_tool fsx 0.3.2
    work=$(mktemp -d "${TMPDIR:-/tmp}/juicefs-test.XXXXXX")
    mkdir "$work/tmp"
    touch "$work/tests.log"
    # Tests that mount as an ordinary user go through here.
    chmod 755 "$work" "$work/tmp"
    trap finish EXIT
    trap 'exit 130' INT TERM
    export TMPDIR=$work/tmp JFS_GOLDEN=$golden JUICEFS_TEST_TOOLS=$tools JUICEFS_TEST_PIDS=$work/pids
    [ $full -eq 0 ] || export JUICEFS_TEST_FULL=1
}

# Ends what this run left behind, and nothing else: mounts below its own directory, clients that it noted down.
finish() {
    local device point pid
    # The table is read from /proc, since a look at a dead or hung mount would hang as well.
    while read -r device point; do
        [ -w "/sys/fs/fuse/connections/${device#*:}/abort" ] && echo 1 >"/sys/fs/fuse/connections/${device#*:}/abort"
        umount -l "$point"
    done < <(awk -v below="$work/" 'index($5, below) == 1 { print $3, $5 }' /proc/self/mountinfo | tac)
    if [ -f "$work/pids" ]; then
        while read -r pid; do
            # The number may belong to somebody else by now: only a client of this run names this directory.
            tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$work" && kill -9 "$pid"
        done <"$work/pids"
    fi
    rm -rf --one-file-system "$work"
} 2>/dev/null

stage() { # title command...
    say "$1"
    shift
    "$@" || { failed_stages+=("$*"); printf 'FAILED: %s\n' "$*"; }
}

# A filter that matches no test must not look like tests that pass.
cargo_test() { # arguments of cargo test
    # Backtraces of unoptimised code are of use; the output goes to the screen and is counted at the end.
    timeout --kill-after 60 "$limit_s" cargo test --locked --profile "$profile" --no-fail-fast "$@" 2>&1 |
        tee "$work/stage.log" || { cat "$work/stage.log" >>"$work/tests.log"; return 1; }
    cat "$work/stage.log" >>"$work/tests.log"
    [ "$(count passed "$work/stage.log")" -gt 0 ] || { echo "No test was run."; return 1; }
}

end_to_end() { # arguments of the test binary
    # Two tests at a time: more of them would measure each other's load.
    cargo_test --package e2e -- --test-threads 2 "$@"
}

# A second time with the metadata in Redis. Tests that are about Redis, or about another engine, have run already.
on_redis() { # filters of the tests
    JUICEFS_TEST_META=redis cargo_test --package e2e --test suite -- --test-threads 2 \
        --skip redis_ --skip trips:: --skip golden:: --skip arrows:: "$@"
}

on_cluster() { # filters of the tests
    JUICEFS_TEST_META=redis-cluster cargo_test --package e2e --test suite -- --test-threads 2 \
        --skip redis_ --skip trips:: --skip golden:: --skip arrows:: "$@"
}

# Without the database nothing can be said about advisories; that must not look like an answer.
advisories() {
    if ! cargo deny --all-features fetch db; then
        unchecked+=("advisories (the advisory database cannot be reached)")
        printf 'Advisories were NOT checked.\n'
        return
    fi
    cargo deny --all-features check --disable-fetch advisories
}

count() { # passed|failed|ignored [log]
    sed -n "s/^test result: .* \([0-9]\+\) $1;.*/\1/p" "${2:-$work/tests.log}" | awk '{ sum += $1 } END { print sum + 0 }'
}

binary() {
    cargo build --locked --profile "$profile" --package juicefs-cli
}

# Storages that the tests do not have are compiled at least.
all_storages() {
    cargo check --locked --quiet --profile "$profile" --package juicefs-cli --features all-storage
}

# The POSIX suite in C, at the commit whose checks are counted in the test.
pjdfstest_in_c() {
    local dir=${JUICEFS_TEST_PJDFSTEST:-$target/pjdfstest-in-c} commit=85a8aea9e685999ef0540392fd80535f873d7ff7
    if [ ! -e "$dir/configure.ac" ]; then
        git init --quiet "$dir"
        git -C "$dir" fetch --quiet --depth 1 https://github.com/pjd/pjdfstest "$commit" || return
        git -C "$dir" checkout --quiet FETCH_HEAD
    fi
    export JUICEFS_TEST_PJDFSTEST=$dir
    [ -x "$dir/pjdfstest" ] || (cd "$dir" && autoreconf -ifs && ./configure --quiet && make --quiet pjdfstest)
}

# Tests that need packages of their own.
applications() { # sqlite3|redis names...
    JUICEFS_TEST_META=$1 cargo_test --package e2e --test suite -- --test-threads 1 --ignored "${@:2}"
}

# The suite of the kernel's file systems, at the commit whose results are in tests/expected/xfstests.txt, with what it
# needs to make a file system of ours. It looks for these users.
build_xfstests() {
    local dir=${JUICEFS_TEST_XFSTESTS:-$target/xfstests} commit=63a29724a85f1999e49bf0a9bf0d22643b6116e5
    local user
    for user in fsgqa fsgqa2; do
        id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user" || return
    done
    id 123456-fsgqa >/dev/null 2>&1 || useradd --badname 123456-fsgqa || return
    if [ ! -e "$dir/check" ]; then
        git init --quiet "$dir"
        git -C "$dir" fetch --quiet --depth 1 https://github.com/kdave/xfstests "$commit" || return
        git -C "$dir" checkout --quiet FETCH_HEAD
    fi
    grep -q FUSE_RC "$dir/common/rc" || echo '[ -z "${FUSE_RC:-}" ] || . "$FUSE_RC"' >>"$dir/common/rc"
    export JUICEFS_TEST_XFSTESTS=$dir
    [ -x "$dir/ltp/fsx" ] || make --directory "$dir" --jobs 2 --silent >"$target/xfstests.log" 2>&1 ||
        { tail -n 20 "$target/xfstests.log"; return 1; }
}

suite_in_c() { # sqlite3|redis
    JUICEFS_TEST_META=$1 cargo_test --package e2e --test suite -- --ignored posix::the_suite_in_c_passes
}

linux_test_project() {
    export JUICEFS_TEST_LTP=${JUICEFS_TEST_LTP:-$target/ltp}
    bash scripts/suites/ltp.sh "$JUICEFS_TEST_LTP"
}

# Suites and tools of others, which take long or need what was built for them.
by_name() { # names of ignored tests
    cargo_test --package e2e --test suite -- --test-threads 1 --ignored "$@"
}

# A real S3 server for tests, large enough to be built only once.
s3_server() {
    cargo build --locked --profile "$profile" --package s3-server
}

# What the end-to-end tests run.
build() {
    if [ -z "${JUICEFS_TEST_S3_SERVER:-}" ]; then
        stage "the S3 server" s3_server
        export JUICEFS_TEST_S3_SERVER=$target/$profile/s3-server
    fi
    if [ -z "${JUICEFS_BIN:-}" ]; then
        stage "the client" binary
        export JUICEFS_BIN=$target/$profile/juicefs
    fi
}

sources() {
    stage "formatting" cargo fmt --all --check
    stage "lints" cargo clippy --locked --quiet --profile "$profile" --workspace --all-targets -- -D warnings
    stage "the client with all storages" all_storages
}

unit_tests() {
    limit_s=$((full ? 3000 : 1200))
    stage "unit, property and conformance tests" cargo_test --workspace --exclude e2e
}

by_default() {
    sources
    build
    unit_tests
    limit_s=2000
    stage "end-to-end tests" end_to_end
    limit_s=900
    stage "a part of the end-to-end tests on Redis" on_redis "${redis_part[@]}"
    stage "a part of the end-to-end tests on a Redis cluster" on_cluster "${cluster_part[@]}"
    if command -v cargo-deny >/dev/null; then
        stage "licences, bans and sources" cargo deny --all-features check licenses bans sources
    fi
}

part() { # name
    local skip_long_half=() name
    for name in "${long_half[@]}"; do skip_long_half+=(--skip "$name"); done
    limit_s=3600
    case "$1" in
        unit)
            sources
            build
            unit_tests
            stage "quickstart" by_name quickstart
            command -v cargo-deny >/dev/null || stage "installing cargo-deny" cargo install --quiet --locked cargo-deny
            stage "licences, bans and sources" cargo deny --all-features check licenses bans sources
            stage "advisories" advisories
            ;;
        sqlite-1) build; stage "end-to-end tests, the long half" end_to_end "${long_half[@]}" ;;
        sqlite-2) build; stage "end-to-end tests, the other half" end_to_end "${skip_long_half[@]}" ;;
        redis-1) build; stage "end-to-end tests on Redis, the long half" on_redis "${long_half[@]}" ;;
        redis-2) build; stage "end-to-end tests on Redis, the other half" on_redis "${skip_long_half[@]}" ;;
        cluster-1) build; stage "end-to-end tests on a Redis cluster, the long half" on_cluster "${long_half[@]}" ;;
        cluster-2) build; stage "end-to-end tests on a Redis cluster, the other half" on_cluster "${skip_long_half[@]}" ;;
        suites)
            build
            stage "building the POSIX suite in C" pjdfstest_in_c
            stage "the POSIX suite in C" suite_in_c sqlite3
            stage "the POSIX suite in C, on Redis" suite_in_c redis
            stage "building the Linux Test Project" linux_test_project
            stage "the Linux Test Project" by_name ltp::
            ;;
        xfstests) build; stage "building xfstests" build_xfstests; stage "xfstests" by_name xfstests::the_quick_group ;;
        stress) build; stage "building xfstests" build_xfstests; stage "fsstress and stress-ng" by_name stress:: ;;
        apps)
            build
            stage "PostgreSQL and Python's tests" applications sqlite3 apps::postgres apps::python
            stage "PostgreSQL, on Redis" applications redis apps::postgres
            ;;
        interop)
            if [ -x "${JUICEFS_GO:-}" ]; then
                build
                stage "beside the other client" by_name interop::
            else
                unchecked+=("what the other client does beside ours (JUICEFS_GO names no binary)")
            fi
            ;;
    esac
}

# The commit of a work tree without changes; nothing for one with changes, or for no repository.
clean_commit() {
    [ -z "$(git status --porcelain 2>/dev/null)" ] && git rev-parse --verify --quiet HEAD
}

main() {
    local commit passed name
    commit=$(clean_commit || true)
    prepare
    if [ $full -eq 0 ]; then
        by_default
    else
        for name in "${parts[@]}"; do part "$name"; done
    fi
    say "the end"
    [ ${#failed_stages[@]} -eq 0 ] || printf 'failed: %s\n' "${failed_stages[@]}"
    [ ${#unchecked[@]} -eq 0 ] || printf 'NOT checked: %s\n' "${unchecked[@]}"
    passed=$(count passed)
    printf '%s passed, %s failed, %s ignored\n' "$passed" "$(count failed)" "$(count ignored)"
    [ ${#failed_stages[@]} -eq 0 ] && [ "$passed" -gt 0 ] || return 1
    # What changed while the tests ran was not tested.
    if [ -n "$commit" ] && [ "$(clean_commit || true)" = "$commit" ]; then
        printf '%s\n' "$commit" >"$target/last-green${2:+-$2}"
    fi
}

main "$@"
