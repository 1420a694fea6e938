//! Inode flags by the newer calls, which know a structure in place of a word.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
};

use e2e::{Volume, run};

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FsXattr {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

const GET: libc::Ioctl = 0x801C_581F;
const SET: libc::Ioctl = 0x401C_5820;
const IMMUTABLE: u32 = 0x8;
const APPEND: u32 = 0x10;
const NOATIME: u32 = 0x40;

fn flags(file: &File) -> u32 {
    let mut got = FsXattr::default();
    // SAFETY: FS_IOC_FSGETXATTR fills the structure, which lives longer than the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), GET, &raw mut got) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
    got.flags
}

fn set(file: &File, wanted: FsXattr) -> Result<(), Option<i32>> {
    // SAFETY: FS_IOC_FSSETXATTR reads the structure, which lives longer than the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), SET, &raw const wanted) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error().raw_os_error()) }
}

#[test]
fn flags_can_be_set_with_the_structure() {
    let volume = Volume::new();
    let mount = volume.mount();
    let path = mount.join("file");
    fs::write(&path, "x").unwrap();
    run("chattr", ["+s", &path.to_string_lossy()]).expect_success();
    let file = File::open(&path).unwrap();
    let bits = |flags| FsXattr { flags, ..FsXattr::default() };
    assert_eq!(set(&file, bits(IMMUTABLE)), Ok(()));
    assert_eq!(flags(&file), IMMUTABLE);
    assert!(fs::write(&path, "y").is_err());
    assert_eq!(set(&file, bits(APPEND)), Ok(()));
    assert_eq!(flags(&file), APPEND);
    assert_eq!(set(&file, bits(NOATIME)), Err(Some(libc::EOPNOTSUPP)));
    assert_eq!(set(&file, FsXattr { project: 7, ..bits(0) }), Err(Some(libc::EOPNOTSUPP)));
    assert_eq!(flags(&file), APPEND, "what is refused changes nothing");
    assert_eq!(set(&file, bits(0)), Ok(()));
    assert_eq!(flags(&file), 0);
    let listed = run("lsattr", [&path]).expect_success();
    assert!(listed.stdout.split(' ').next().unwrap().contains('s'), "a flag without a bit there stays: {listed}");
    drop(file);
    fs::write(&path, "z").unwrap();
    mount.unmount();
}
