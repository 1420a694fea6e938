//! Who asks. The header of a request becomes a [`Caller`] here: ids are squashed, and where the kernel does not check
//! permissions the supplementary groups of the process are looked up.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use juicefs_core::Caller;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::abi::InHeader;

/// How long the groups of a process are remembered. They hardly ever change, but process numbers are used again.
const GROUPS_TTL: Duration = Duration::from_secs(5);
/// How many processes are remembered at most.
const GROUPS_CAP: usize = 1024;

/// The inode of `.control`, which takes requests for jobs.
const CONTROL: u64 = 0x7FFF_FFFF_0000_0002;
/// The inodes of the other internal files, which tell about the mount.
const TELLING: [u64; 3] = [0x7FFF_FFFF_0000_0001, 0x7FFF_FFFF_0000_0003, 0x7FFF_FFFF_0000_0004];

type Groups = SmallVec<[u32; 4]>;

/// How callers are identified on one mount.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    /// Operations check permissions, for everybody but root, because the kernel does not (no `default_permissions`).
    pub(crate) check_permission: bool,
    /// Who root becomes.
    pub(crate) root_squash: Option<(u32, u32)>,
    /// Who everybody becomes.
    pub(crate) all_squash: Option<(u32, u32)>,
    groups: Mutex<HashMap<u32, (Instant, Groups)>>,
}

impl Callers {
    pub(crate) fn new(check_permission: bool, root_squash: Option<(u32, u32)>, all_squash: Option<(u32, u32)>) -> Self {
        Self { check_permission, root_squash, all_squash, groups: Mutex::default() }
    }

    /// The caller that `header` names.
    pub(crate) fn caller(&self, header: &InHeader) -> Caller {
        // What tells about the mount is for whoever mounted it, and no part of the volume that squashing keeps them from.
        if TELLING.contains(&header.nodeid) {
            return Caller { uid: header.uid, gid: header.gid, pid: header.pid, ..Caller::default() };
        }
        let squashed = self.all_squash.or(self.root_squash.filter(|_| header.uid == 0));
        if let Some((uid, gid)) = squashed {
            // The groups of the process are those of somebody else now.
            return Caller {
                uid,
                gid,
                groups: Groups::new(),
                pid: header.pid,
                check_permission: true,
                ..Caller::default()
            };
        }
        // Jobs are asked for here, of which the kernel checks nothing.
        let check_permission = (self.check_permission || header.nodeid == CONTROL) && header.uid != 0;
        let groups = if check_permission && header.pid != 0 { self.groups(header.pid) } else { Groups::new() };
        Caller { uid: header.uid, gid: header.gid, groups, pid: header.pid, check_permission, ..Caller::default() }
    }

    fn groups(&self, pid: u32) -> Groups {
        let now = Instant::now();
        let mut known = self.groups.lock();
        if let Some((read_at, groups)) = known.get(&pid)
            && now.duration_since(*read_at) < GROUPS_TTL
        {
            return groups.clone();
        }
        let groups = status(pid).map(|text| parse_groups(&text)).unwrap_or_default();
        if known.len() >= GROUPS_CAP {
            known.clear();
        }
        known.insert(pid, (now, groups.clone()));
        groups
    }
}

/// Whether the task `pid` has been killed and only waits for its present system call to end, or closes its files on its way
/// out.
///
/// A task that waits for a request exists, so one that cannot be seen is only hidden from this user and may live on.
/// `/proc/PID/stat` would say more, but must not be read here: that waits for whoever executes another program, and he may
/// wait for the answer to the request that this is asked for, as he closes files.
pub(crate) fn is_dying(pid: u32) -> bool {
    pid != 0 && status(pid).is_some_and(|text| parse_dying(&text))
}

/// `/proc/PID/status`, `None` when there is no such task or it is not shown to us.
fn status(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/status")).ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn parse_groups(status: &str) -> Groups {
    field(status, "Groups").unwrap_or_default().split_ascii_whitespace().filter_map(|g| g.parse().ok()).collect()
}

/// Whether this is the status of a task that a signal ends. A signal that ends a process makes SIGKILL pending for each of
/// its tasks, and stays pending for the process itself when they exit and have no memory any more.
fn parse_dying(status: &str) -> bool {
    const ENDING: [libc::c_int; 5] = [libc::SIGKILL, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGPIPE];
    let set = |name| field(status, name).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let bit = |signal: libc::c_int| 1_u64 << (signal - 1);
    let own = set("SigPnd");
    if own & bit(libc::SIGKILL) != 0 {
        return true;
    }
    let pending = (own | set("ShdPnd")) & !set("SigBlk") & !set("SigIgn") & !set("SigCgt");
    field(status, "VmSize").is_none() && ENDING.into_iter().any(|signal| pending & bit(signal) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(uid: u32, pid: u32) -> InHeader {
        InHeader { uid, gid: uid + 1, pid, ..Default::default() }
    }

    #[test]
    fn squashing_replaces_identity_and_checks_it() {
        let root = Callers::new(false, Some((65534, 65533)), None);
        let caller = root.caller(&header(0, 1));
        assert_eq!((caller.uid, caller.gid, caller.check_permission), (65534, 65533, true));
        assert!(!root.caller(&header(1000, 1)).check_permission);
        let all = Callers::new(false, Some((1, 1)), Some((9, 8)));
        assert_eq!((all.caller(&header(0, 1)).uid, all.caller(&header(1000, 1)).gid), (9, 8));
    }

    #[test]
    fn whoever_mounted_is_not_squashed_for_what_tells_about_the_mount() {
        let all = Callers::new(false, None, Some((9, 8)));
        let uid = |nodeid| all.caller(&InHeader { nodeid, ..header(0, 1) }).uid;
        assert_eq!((uid(TELLING[0]), uid(TELLING[2]), uid(CONTROL), uid(1)), (0, 0, 9, 9));
    }

    #[test]
    fn groups_are_read_only_for_callers_who_are_checked() {
        let own = std::process::id();
        assert!(Callers::new(false, None, None).caller(&header(7, own)).groups.is_empty());
        let callers = Callers::new(true, None, None);
        assert!(!callers.caller(&header(0, own)).check_permission, "root may do everything");
        let expected = parse_groups(&fs::read_to_string("/proc/self/status").expect("procfs"));
        assert_eq!(callers.caller(&header(7, own)).groups, expected);
    }

    #[test]
    fn only_who_goes_because_of_a_signal_was_killed() {
        let status = |pending: u64, caught: u64| {
            format!("Name:\tx\nSigPnd:\t0000000000000000\nShdPnd:\t{pending:016x}\nSigCgt:\t{caught:016x}\n")
        };
        assert!(parse_dying(&status(0x100, 0)) && parse_dying(&status(0x4000, 0)));
        let lives = format!("VmSize:\t   12 kB\n{}", status(0x100, 0));
        for text in [lives, status(0, 0), status(0x4000, 0x4000), status(0x1_0000, 0)] {
            assert!(!parse_dying(&text), "{text}");
        }
    }

    #[test]
    fn status_fields_parse() {
        let text = "Name:\tx\nGroups:\t4 24 1000 \nSigPnd:\t0000000000000100\n";
        assert_eq!(parse_groups(text).as_slice(), [4, 24, 1000]);
        assert!(parse_dying(text));
        assert!(!parse_dying("SigPnd:\t0000000000000200\n"));
        assert!(!is_dying(std::process::id()));
    }
}
