//! Finds clients that died on this machine, so that nobody has to wait for the end of their sessions to get their locks.
//!
//! A client that dies leaves its session behind. On other machines nobody can tell it from one that is slow, so its
//! locks stay for five heartbeats. On this machine the kernel knows. That matters beyond the waiting: a program like
//! SQLite takes what it finds in a file for the work of somebody alive as long as the file is locked.

use std::fs;

use juicefs_core::{SessionId, meta::SessionInfo};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

use crate::cmd::status::SessionRecord;

/// Names the boot of this machine and the namespace in which this process has its number. Two processes with the same
/// number in the same space are the same process, or did not run at the same time. `None` where `/proc` does not tell.
pub(super) fn process_space() -> Option<String> {
    // The /proc of other namespaces has other numbers.
    let own: u32 = fs::read_link("/proc/self").ok()?.to_str()?.parse().ok()?;
    if own != std::process::id() {
        return None;
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.to_str()?))
}

/// The sessions of clients that ran on this machine and do not run any more. `own` is the record of this client.
pub(super) fn dead(sessions: &[SessionInfo], own: &SessionRecord) -> Vec<SessionId> {
    let is_dead = |session: &&SessionInfo| {
        let record = SessionRecord::of(session);
        // A machine that was copied while it ran has the boot of its twin, but not the addresses.
        let is_here = !own.process_space.is_empty()
            && record.process_space == own.process_space
            && record.host_name == own.host_name
            && record.ip_addrs == own.ip_addrs;
        is_here && is_gone(record.process_id)
    };
    sessions.iter().filter(is_dead).map(|session| session.sid).collect()
}

/// Whether no process with this number runs. A process that has ended, and whose parent has not taken note, does not run.
fn is_gone(pid: i64) -> bool {
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { return false };
    // The kernel, since /proc may hide the processes of other users.
    if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
        return true;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next());
    matches!(state, Some("Z" | "X"))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use juicefs_core::Timestamp;

    use super::*;

    fn session(sid: u64, record: &SessionRecord) -> SessionInfo {
        let info = serde_json::to_vec(record).expect("writable").into();
        SessionInfo { sid: SessionId(sid), expire: Timestamp::from_secs(0), info, sustained: Vec::new() }
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().expect("sleep starts")
    }

    #[test]
    fn only_what_died_here_is_dead() {
        let own = SessionRecord {
            host_name: "here".to_owned(),
            ip_addrs: vec!["192.0.2.1".to_owned()],
            process_id: i64::from(std::process::id()),
            process_space: process_space().expect("/proc tells"),
            ..SessionRecord::default()
        };
        let (mut alive, mut unnoticed, mut gone) = (sleeper(), sleeper(), sleeper());
        unnoticed.kill().expect("killed");
        gone.kill().expect("killed");
        gone.wait().expect("waited");
        let of = |child: &Child| SessionRecord { process_id: i64::from(child.id()), ..own.clone() };
        while !is_gone(i64::from(unnoticed.id())) {
            std::thread::yield_now();
        }
        let elsewhere = [
            SessionRecord { process_space: "another boot".to_owned(), ..of(&gone) },
            SessionRecord { process_space: String::new(), ..of(&gone) },
            SessionRecord { host_name: "there".to_owned(), ..of(&gone) },
            SessionRecord { ip_addrs: Vec::new(), ..of(&gone) },
            SessionRecord { process_id: 0, ..own.clone() },
        ];
        let mut sessions = vec![session(1, &own), session(2, &of(&alive)), session(3, &of(&unnoticed))];
        sessions.push(session(4, &of(&gone)));
        sessions.extend(elsewhere.iter().zip(5..).map(|(record, sid)| session(sid, record)));
        sessions.push(SessionInfo { info: bytes::Bytes::from_static(b"no JSON"), ..session(99, &own) });
        assert_eq!(dead(&sessions, &own), [SessionId(3), SessionId(4)]);
        let nowhere = SessionRecord { process_space: String::new(), ..own };
        assert_eq!(dead(&sessions, &nowhere), []);
        alive.kill().expect("killed");
        alive.wait().expect("waited");
        unnoticed.wait().expect("waited");
    }
}
