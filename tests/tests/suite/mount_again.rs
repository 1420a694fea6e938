//! Mounting where something is mounted already: `mount -a` twice, remount, the command twice, another volume.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use e2e::{Finished, Volume, is_mounted, juicefs, run, run_within};

/// A mount in the background, ended when dropped.
struct Background<'a> {
    volume: &'a Volume,
    point: PathBuf,
}

impl<'a> Background<'a> {
    fn new(volume: &'a Volume) -> Self {
        Self { volume, point: volume.dir().join("mnt") }
    }

    /// `juicefs mount -d` with these flags.
    fn mount(&self, flags: &[&str]) -> Finished {
        self.mount_volume(self.volume, flags)
    }

    fn mount_volume(&self, volume: &Volume, flags: &[&str]) -> Finished {
        let point = self.point.to_string_lossy();
        let url = volume.meta_url();
        let common = ["mount", "-d", "--no-syslog", "--log", "log", "--cache-dir", "cache"];
        self.volume.juicefs(&[&common[..], flags, &[&url, &point]].concat())
    }

    /// What mount(8) does with the type `juicefs`.
    fn helper(&self, options: &str) -> Finished {
        let link = self.volume.dir().join("mount.juicefs");
        if !link.exists() {
            symlink(juicefs(), &link).unwrap();
        }
        let mut command = Command::new(link);
        command.arg(self.volume.meta_url()).arg(&self.point).args(["-o", options]).current_dir(self.volume.dir());
        run_within(command, Duration::from_secs(60))
    }

    /// How many mounts lie on top of each other there.
    fn count(&self) -> usize {
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let place = self.point.to_string_lossy();
        table.lines().filter(|line| line.split(' ').nth(1) == Some(&*place)).count()
    }
}

impl Drop for Background<'_> {
    fn drop(&mut self) {
        while is_mounted(&self.point) && run("umount", [Path::new("-l"), &self.point]).success() {}
    }
}

#[test]
fn the_same_mount_twice_is_one_mount() {
    let volume = Volume::new();
    let mount = Background::new(&volume);
    mount.mount(&["--cache-size", "1G", "-o", "noexec"]).expect_success();
    // Also in other words.
    for flags in
        [&["--cache-size", "1024M", "-o", "noexec"][..], &["-o", "noexec,rw", "--cache-size=1G", "--prefetch=1"]]
    {
        let again = mount.mount(flags).expect_success();
        assert!(again.stderr.contains("already") && mount.count() == 1, "{again}");
    }
    // In the foreground too, where there is nothing to wait for.
    let point = mount.point.to_string_lossy().into_owned();
    let line = ["mount", "--cache-dir", "cache", "--cache-size", "1G", "-o", "noexec", &volume.meta_url(), &point];
    volume.juicefs(&line).expect_success();
    let differs = mount.mount(&["--cache-size", "2G", "--enable-xattr"]).expect_failure();
    for name in ["--cache-size", "--enable-xattr", "-o noexec", "--force"] {
        assert!(differs.stderr.contains(name), "{name}: {differs}");
    }
    assert_eq!(mount.count(), 1);
    mount.mount(&["--cache-size", "2G", "--force"]).expect_success();
    assert_eq!(mount.count(), 2);
    volume.juicefs(&["umount", &point]).expect_success();
    volume.juicefs(&["umount", &point]).expect_success();
    assert_eq!(mount.count(), 0);
}

#[test]
fn another_volume_is_not_mounted_over_one() {
    let (volume, other) = (Volume::new(), Volume::new());
    let mount = Background::new(&volume);
    mount.mount(&[]).expect_success();
    let refused = mount.mount_volume(&other, &[]).expect_failure();
    assert!(refused.stderr.contains("another volume") && mount.count() == 1, "{refused}");
    let point = mount.point.to_string_lossy();
    volume.juicefs(&["umount", &point]).expect_success();
}

#[test]
fn mounting_all_twice_and_remounting_succeed() {
    let volume = Volume::new();
    let mount = Background::new(&volume);
    let cache = format!("cache-dir={}", volume.dir().join("cache").display());
    let log = format!("no-syslog,log={}", volume.dir().join("log").display());
    let options = format!("rw,_netdev,nofail,{cache},{log},cache-size=1G");
    mount.helper(&options).expect_success();
    mount.helper(&options).expect_success();
    assert_eq!(mount.count(), 1);
    // The line of /etc/fstab may have changed: the mount has not, and is there.
    let other = mount.helper(&options.replace("1G", "2G")).expect_success();
    assert!(other.stderr.contains("--cache-size") && mount.count() == 1, "{other}");
    let file = mount.point.join("file");
    let remount = |more: &str| mount.helper(&format!("{options},remount{more}"));
    remount("").expect_success();
    fs::write(&file, "one").unwrap();
    remount(",ro,noexec").expect_success();
    assert!(fs::write(&file, "two").is_err());
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let place = format!(" {} ", mount.point.display());
    let line = table.lines().find(|line| line.contains(&place)).unwrap();
    assert!(line.contains(" ro,") && line.contains("noexec") && line.contains("nosuid"), "{line}");
    remount("").expect_success();
    fs::write(&file, "three").unwrap();
    for (more, name) in [(",cache-size=3G", "--cache-size"), (",writeback_cache", "-o writeback_cache")] {
        let refused = remount(more).expect_failure();
        assert!(refused.stderr.contains(name), "{refused}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "three");
    let point = mount.point.to_string_lossy().into_owned();
    volume.juicefs(&["umount", &point]).expect_success();
    let refused = remount("").expect_failure();
    assert!(refused.stderr.contains("no JuiceFS is mounted there"), "{refused}");
}

#[test]
fn an_unknown_option_is_named() {
    let volume = Volume::new();
    let mount = Background::new(&volume);
    for refused in [mount.mount(&["-o", "noexec,cache-sise=5"]), mount.helper("rw,cache-sise=5")] {
        assert!(!refused.success() && refused.stderr.contains("cache-sise=5"), "{refused}");
    }
    assert_eq!(mount.count(), 0);
}

/// As an administrator does it: a line in a table, mount(8), umount(8). The helper is linked where mount(8) looks for it, but
/// in a mount namespace of its own, so that the machine does not notice.
#[test]
fn a_line_of_fstab_is_mounted_and_unmounted_by_the_systems_commands() {
    let volume = Volume::new();
    let dir = volume.dir().display();
    let script = format!(
        r#"set -euo pipefail
        mount --make-rprivate /
        mkdir {dir}/sbin {dir}/upper {dir}/work {dir}/mnt
        mount -t overlay overlay -o lowerdir=/usr/sbin,upperdir={dir}/upper,workdir={dir}/work /usr/sbin
        ln -s {juicefs} /usr/sbin/mount.juicefs
        echo "{url} {dir}/mnt juicefs _netdev,nofail,no-syslog,log={dir}/log,cache-dir={dir}/cache 0 0" >{dir}/fstab
        mounts() {{ grep -c " {dir}/mnt fuse.juicefs " /proc/self/mounts || true; }}
        mount -T {dir}/fstab -a; mount -T {dir}/fstab -a
        [ "$(mounts)" = 1 ]
        echo content >{dir}/mnt/file
        mount -T {dir}/fstab -o remount {dir}/mnt
        mount -T {dir}/fstab -o remount,ro {dir}/mnt
        ! echo x >{dir}/mnt/file
        mount -T {dir}/fstab -o remount,rw {dir}/mnt
        echo more >>{dir}/mnt/file
        ! mount -T {dir}/fstab -o remount,cache-size=3G {dir}/mnt
        umount {dir}/mnt
        [ "$(mounts)" = 0 ]
        mount -T {dir}/fstab {dir}/mnt
        [ "$(cat {dir}/mnt/file)" = "content
more" ]
        umount {dir}/mnt"#,
        juicefs = juicefs().display(),
        url = volume.meta_url(),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-c", &script]);
    run_within(command, Duration::from_secs(120)).expect_success();
}
