//! Whoever is squashed may do what the user whom they became may do, and nothing else: each operation is done by that user
//! on a plain mount, where the kernel judges, and by root on one that squashes, where it lets root pass.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use e2e::{Mount, Volume, run_in, run_within};

/// The user that root becomes.
const NOBODY: u32 = 65534;

/// What root leaves for the operations to be tried on.
const TREE: &str = r"
umask 022
for f in f600 f644 f666 f4755 f4777 f6777 f2775 f711; do printf content >$f; chmod ${f#f} $f; done
printf '#!/bin/sh\nexit 0\n' >p700; chmod 700 p700
printf '#!/bin/sh\nexit 0\n' >p755; chmod 755 p755
printf content >own; chmod 600 own; cp own own_link; cp own own_flags
for d in d700 d711 d755 d777 d1777; do mkdir $d; chmod ${d#d} $d; printf x >$d/file; mkdir $d/dir; printf y >$d/mine; done
mkdir d755/full; mkdir d1777/owndir; mkdir d777/wide; chmod 777 d777/wide
mkfifo fifo; chmod 666 fifo; ln -s f644 link; mkfifo f600pipe; chmod 600 f600pipe
for f in f600 f644 f666 own d755 d777 d1777; do setfattr -n user.a -v value $f; done
for f in f644 f666 own; do setfattr -n trusted.a -v value $f; setfattr -n security.a -v value $f; done
setfacl -m u:2:r f600
chown NOBODY:NOBODY own own_link own_flags d*/mine d1777/owndir
touch immutable; chmod 666 immutable; chattr +i immutable
";

/// Tries every operation in the current directory, and prints a line with the outcome of each.
const OPERATIONS: &str = r"
import ctypes, errno, fcntl, os, socket, stat, struct, subprocess
libc = ctypes.CDLL(None, use_errno=True)
NOFOLLOW = dict(follow_symlinks=False)

def whiteout(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), 'renameat2')

def opened(path, flags, then=None):
    fd = os.open(path, flags, 0o644)
    try:
        if then: then(fd)
    finally:
        os.close(fd)

def flags(path, bits):
    def then(fd):
        fcntl.ioctl(fd, 0x40086602, struct.pack('q', bits))
    opened(path, os.O_RDONLY, then)

def run(path):
    subprocess.run([path], check=True)

def times(path, times=None): os.utime(path, times)

def acl(path):
    rule = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', t, p, i) for t, p, i in
        [(1, 6, 2**32 - 1), (2, 4, 3), (4, 4, 2**32 - 1), (16, 6, 2**32 - 1), (32, 4, 2**32 - 1)])
    os.setxattr(path, 'system.posix_acl_access', rule)

ops = []
def op(name, call): ops.append((name, call))

R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
for f in ['f600', 'f644', 'f666', 'f711', 'own', 'immutable']:
    for name, mode in [('r', R), ('w', W), ('rw', RW), ('creat', RW | os.O_CREAT), ('append', W | os.O_APPEND)]:
        op(f'open {name} {f}', lambda f=f, mode=mode: opened(f, mode))
for f in ['f644', 'f666', 'own']:
    op(f'noatime {f}', lambda f=f: opened(f, R | os.O_NOATIME))
for f in ['f600', 'f644', 'f666', 'own', 'fifo', 'd755', 'd777', 'd1777', 'd1777/owndir', 'd700', 'link']:
    op(f'set user {f}', lambda f=f: os.setxattr(f, 'user.b', b'v', **(NOFOLLOW if f == 'link' else {})))
    op(f'get user {f}', lambda f=f: os.getxattr(f, 'user.a', **(NOFOLLOW if f == 'link' else {})))
    op(f'remove user {f}', lambda f=f: os.removexattr(f, 'user.a', **(NOFOLLOW if f == 'link' else {})))
    op(f'list {f}', lambda f=f: os.listxattr(f, **(NOFOLLOW if f == 'link' else {})))
for f in ['f644', 'f666', 'own']:
    for space in ['trusted', 'security']:
        op(f'get {space} {f}', lambda f=f, s=space: os.getxattr(f, s + '.a'))
        op(f'set {space} {f}', lambda f=f, s=space: os.setxattr(f, s + '.a', b'w'))
        op(f'remove {space} {f}', lambda f=f, s=space: os.removexattr(f, s + '.a'))
for f in ['f644', 'f666', 'own_link']:
    op(f'acl {f}', lambda f=f: acl(f))
for f in ['f644', 'f666', 'own', 'd755', 'd777']:
    if f not in ['f666', 'd777']:
        # A writer takes set-id bits away with every write, and may do so where there are none.
        op(f'chmod same {f}', lambda f=f: os.chmod(f, {'f644': 0o644, 'own': 0o600, 'd755': 0o755}[f]))
    op(f'chmod {f}', lambda f=f: os.chmod(f, 0o700))
    op(f'chown same {f}', lambda f=f: os.chown(f, os.stat(f).st_uid, -1))
    op(f'chgrp same {f}', lambda f=f: os.chown(f, -1, os.stat(f).st_gid))
    op(f'chown other {f}', lambda f=f: os.chown(f, 7, -1))
    op(f'chgrp other {f}', lambda f=f: os.chown(f, -1, 7))
    op(f'touch {f}', lambda f=f: times(f))
    op(f'set times {f}', lambda f=f: times(f, (5, 6)))
op('chmod drops set-id f4755', lambda: os.chmod('f4755', 0o755))
op('chown same f4755', lambda: os.chown('f4755', os.stat('f4755').st_uid, -1))
for f in ['f644', 'f666', 'own']:
    op(f'truncate {f}', lambda f=f: os.truncate(f, 3))
op('fallocate f666', lambda: opened('f666', RW, lambda fd: os.posix_fallocate(fd, 0, 9)))
op('fallocate read-only f644', lambda: opened('f644', R, lambda fd: os.posix_fallocate(fd, 0, 9)))
op('copy range', lambda: opened('own', R, lambda a: opened('f666', RW, lambda b: os.copy_file_range(a, b, 3))))
op('truncate through a read-only handle', lambda: opened('f644', R, lambda fd: os.ftruncate(fd, 1)))
op('write set-id', lambda: opened('f4777', W, lambda fd: os.write(fd, b'z')))
op('mode after that', lambda: print('mode', oct(os.stat('f4777').st_mode)))
for f in ['p700', 'p755', './f644']:
    op(f'exec {f}', lambda f=f: run(f if '/' in f else './' + f))
for d in ['d700', 'd711', 'd755', 'd777', 'd1777']:
    op(f'list {d}', lambda d=d: os.listdir(d))
    op(f'stat in {d}', lambda d=d: os.stat(d + '/file'))
    op(f'create in {d}', lambda d=d: opened(d + '/new', RW | os.O_CREAT | os.O_EXCL))
    op(f'create or open in {d}', lambda d=d: opened(d + '/file', W | os.O_CREAT))
    op(f'tmpfile in {d}', lambda d=d: opened(d, RW | os.O_TMPFILE))
    op(f'mkdir in {d}', lambda d=d: os.mkdir(d + '/newdir'))
    op(f'symlink in {d}', lambda d=d: os.symlink('x', d + '/newlink'))
    op(f'fifo in {d}', lambda d=d: os.mkfifo(d + '/newfifo'))
    op(f'socket in {d}', lambda d=d: os.mknod(d + '/newsocket', stat.S_IFSOCK | 0o644))
    for kind, bits, device in [('char', stat.S_IFCHR, os.makedev(1, 3)), ('block', stat.S_IFBLK, os.makedev(7, 0)), ('whiteout', stat.S_IFCHR, 0)]:
        op(f'{kind} in {d}', lambda d=d, kind=kind, bits=bits, device=device: os.mknod(f'{d}/new{kind}', bits | 0o600, device))
    op(f'move dir out of {d}', lambda d=d: os.rename(d + '/dir', 'd777/wide/from_' + d))
    op(f'unlink mine in {d}', lambda d=d: os.unlink(d + '/mine'))
    op(f'unlink in {d}', lambda d=d: os.unlink(d + '/file'))
    op(f'rmdir in {d}', lambda d=d: os.rmdir(d + '/dir'))
op('rmdir full', lambda: os.rmdir('d755/full'))
op('whiteout', lambda: whiteout('d777/new', 'd777/moved', 4))
op('exchange', lambda: whiteout('d777/moved', 'd1777/owndir', 2))
op('readlink', lambda: os.readlink('link'))
op('statvfs', lambda: os.statvfs('.'))
for f in ['f644', 'own_flags', 'f666']:
    op(f'get flags {f}', lambda f=f: opened(f, R, lambda fd: fcntl.ioctl(fd, 0x80086601, struct.pack('q', 0))))
    op(f'set flags {f}', lambda f=f: flags(f, 0x10))
op('unfreeze', lambda: flags('immutable', 0))
for f in ['f600', 'f644', 'f666', 'f6777', 'f2775', 'fifo', 'f600pipe', 'own_link', 'link', 'd755']:
    op(f'link {f}', lambda f=f: os.link(f, 'd777/link_' + f, **(NOFOLLOW if f == 'link' else {})))
for f in ['.accesslog', '.config', '.stats', '.control']:
    for name, mode in [('r', R), ('w', W)]:
        op(f'open {name} {f}', lambda f=f, mode=mode: opened('../' + f, mode))

for name, call in ops:
    try:
        call()
        outcome = 'ok'
    except OSError as e:
        outcome = errno.errorcode[e.errno]
    except subprocess.CalledProcessError as e:
        outcome = f'exit {e.returncode}'
    print(f'{name}\t{outcome}')
";

/// Outcomes by the names of operations.
type Outcomes = BTreeMap<String, String>;

fn outcomes(dir: &Path, uid: u32) -> Outcomes {
    let script = dir.parent().and_then(Path::parent).unwrap().join("operations.py");
    let mut command = Command::new("setpriv");
    let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
    command.args([&*user, &*group, "--clear-groups", "/usr/bin/python3"]).arg(script).current_dir(dir);
    let printed = run_within(command, Duration::from_secs(120)).expect_success().stdout;
    printed.lines().filter_map(|line| line.split_once('\t')).map(|(op, how)| (op.to_owned(), how.to_owned())).collect()
}

/// A tree of its own for each way to try the operations.
fn prepare(plain: &Mount, name: &str) -> PathBuf {
    let dir = plain.join(name);
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    run_in(&dir, &TREE.replace("NOBODY", &NOBODY.to_string())).expect_success();
    dir
}

/// All that differs from what the kernel says.
fn compare(expected: &Outcomes, found: &Outcomes) -> Vec<String> {
    assert!(expected.len() > 150 && expected.len() == found.len(), "{} and {} outcomes", expected.len(), found.len());
    // For what a sticky directory forbids Linux says EPERM, and clients of such volumes EACCES; both are a no.
    let refused = |how: &str| matches!(how, "EPERM" | "EACCES");
    let sticky = |op: &str| op.contains("d1777");
    let same = |op: &str, a: &str, b: &str| a == b || sticky(op) && refused(a) && refused(b);
    let differs = |(op, how): &(&String, &String)| !same(op, how, &found[*op]);
    expected.iter().filter(differs).map(|(op, how)| format!("{op}: {how}, but {}", found[op])).collect()
}

fn volume() -> Volume {
    let volume = Volume::with(&["--trash-days", "0", "--enable-acl"]);
    fs::set_permissions(volume.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(volume.dir().join("operations.py"), OPERATIONS).unwrap();
    volume
}

const FLAGS: [&str; 3] = ["--enable-xattr", "--enable-ioctl", "--enable-cap"];

#[test]
fn squashed_callers_may_do_what_the_user_may() {
    let volume = volume();
    let plain = volume.mount_with("plain", &FLAGS);
    let expected = outcomes(&prepare(&plain, "by-user"), NOBODY);
    let squash = format!("{NOBODY}:{NOBODY}");
    let mut wrong = Vec::new();
    for (place, flag, uid) in [("root", "--root-squash", 0), ("all", "--all-squash", 0), ("user", "--all-squash", 1234)]
    {
        prepare(&plain, place);
        let squashing = volume.mount_with(&format!("squash-{place}"), &[&FLAGS[..], &[flag, &squash]].concat());
        let found = outcomes(&squashing.join(place), uid);
        let mut differences = compare(&expected, &found);
        // These are for whoever mounted.
        differences
            .retain(|line| uid != 0 || !line.starts_with("open r .accesslog") && !line.starts_with("open r .config"));
        if uid != 0 {
            // The kernel goes by the user itself in sticky directories and for what only owners may do: it refuses more, and that
            // is no matter. Nothing more is allowed.
            differences.retain(|line| line.ends_with("but ok"));
        }
        wrong.extend(differences.into_iter().map(|line| format!("{flag} as {uid}: {line}")));
        squashing.unmount();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    plain.unmount();
}

/// Where the client judges instead of the kernel, it judges alike.
#[test]
fn a_mount_without_the_kernels_check_judges_alike() {
    let volume = volume();
    let plain = volume.mount_with("plain", &FLAGS);
    let expected = outcomes(&prepare(&plain, "by-user"), NOBODY);
    prepare(&plain, "checked");
    let checking = volume.mount_with("own-check", &[&FLAGS[..], &["--non-default-permission"]].concat());
    let found = outcomes(&checking.join("checked"), NOBODY);
    let wrong = compare(&expected, &found);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    checking.unmount();
    plain.unmount();
}

/// A program that others may write to is no set-id program any more once one of them has it open, or has cut it.
#[test]
fn whoever_is_squashed_takes_set_id_bits_away() {
    let volume = volume();
    let plain = volume.mount_with("plain", &[]);
    run_in(plain.path(), "for f in a b c; do echo x >$f; chmod 6777 $f; done; echo x >closed; chmod 4755 closed")
        .expect_success();
    let squash = format!("{NOBODY}:{NOBODY}");
    let mount = volume.mount_with("mnt", &["--root-squash", &squash]);
    run_in(mount.path(), "echo y >>a; truncate -s 1 b; cat c >/dev/null").expect_success();
    run_in(mount.path(), "echo y >>closed").expect_failure();
    mount.unmount();
    let modes = run_in(plain.path(), "sleep 1.1; stat -c %a a b c closed").expect_success().stdout;
    assert_eq!(modes, "777\n777\n6777\n4755\n");
    plain.unmount();
}

/// Owners cannot be kept where everybody is one user, as with NFS, and programs hear EPERM. Content, mode and times are kept.
#[test]
fn copies_that_preserve_keep_what_can_be_kept() {
    let volume = Volume::new();
    fs::set_permissions(volume.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(volume.dir().join("outside"), "content").unwrap();
    let script = "chown 1234:1234 outside; chmod 640 outside; touch -d 2021-03-04T05:06:07Z outside";
    run_in(volume.dir(), script).expect_success();
    let squash = format!("{NOBODY}:{NOBODY}");
    let mount = volume.mount_with("mnt", &["--all-squash", &squash]);
    let kept = |name: &str| {
        let looks = run_in(mount.path(), &format!("stat -c '%u:%g %a %Y' {name}")).expect_success().stdout;
        assert_eq!(looks, format!("{squash} 640 1614834367\n"), "{name}");
        assert_eq!(run_in(mount.path(), &format!("cat {name}")).expect_success().stdout, "content");
    };
    let copy = |user: &str, from: &str, to: &str| {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "cp", "-p", from, to]);
        command.current_dir(mount.path());
        run_within(command, Duration::from_secs(60))
    };
    for (user, to) in [("1234", "by-user"), ("0", "by-root")] {
        let told = copy(user, "../outside", to).expect_failure();
        assert!(told.stderr.contains("preserv"), "{told}");
        assert_eq!(run_in(mount.path(), &format!("cat {to}")).expect_success().stdout, "content");
    }
    // Root's program ends with the owner that it could not give.
    kept("by-user");
    // What is there belongs to that one user already.
    copy("0", "by-user", "again").expect_success();
    kept("again");
    mount.unmount();
}
