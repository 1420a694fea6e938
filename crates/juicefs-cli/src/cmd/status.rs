//! `juicefs status` shows the setting, the sessions and the use of a volume as JSON (cli.md §6.1).

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use juicefs_core::{
    Clock, Format, Ino, Listing, Meta, SystemClock, Timestamp,
    meta::{SessionInfo, VolumeUsage},
};
use juicefs_meta::Client;
use serde::{Deserialize, Serialize};

use crate::{
    config::args::StatusArgs,
    local_time, terminal,
    volume::{load_format, open_engine, open_reader, shown},
};

/// What a client stored about itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct SessionRecord {
    /// Its version.
    pub(crate) version: String,
    /// Its machine.
    pub(crate) host_name: String,
    /// The addresses of its machine.
    #[serde(rename = "IPAddrs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) ip_addrs: Vec<String>,
    /// Where it is mounted.
    pub(crate) mount_point: String,
    /// Since when.
    pub(crate) mount_time: String,
    /// Its process.
    #[serde(rename = "ProcessID")]
    pub(crate) process_id: i64,
    /// The space in which the number of its process is unique. It is empty when another client wrote the record, and is
    /// not shown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) process_space: String,
    /// How often it renews its session, in seconds. It is 0 when another client wrote the record, and is not shown.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) heartbeat: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl SessionRecord {
    /// The record of a session, as far as it can be understood.
    pub(crate) fn of(session: &SessionInfo) -> Self {
        serde_json::from_slice(&session.info).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Session {
    #[serde(rename = "Sid")]
    sid: u64,
    #[serde(rename = "Expire")]
    expire: String,
    #[serde(flatten)]
    record: SessionRecord,
    #[serde(rename = "Sustained", skip_serializing_if = "Vec::is_empty")]
    sustained: Vec<u64>,
}

impl Session {
    fn of(session: &SessionInfo, with_sustained: bool) -> Self {
        Self {
            sid: session.sid.0,
            expire: local_time::rfc3339(juicefs_vfs::local_time(Timestamp::from_secs(session.expire.secs))),
            record: SessionRecord { process_space: String::new(), heartbeat: 0, ..SessionRecord::of(session) },
            sustained: if with_sustained { session.sustained.iter().map(|ino| ino.0).collect() } else { Vec::new() },
        }
    }
}

#[derive(Serialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Stat {
    used_space: u64,
    available_space: u64,
    used_inodes: u64,
    available_inodes: u64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    more: Option<Pending>,
}

/// What is kept or waits to be deleted.
#[derive(Serialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Pending {
    trash_file_count: u64,
    trash_file_size: u64,
    pending_deleted_file_count: u64,
    pending_deleted_file_size: u64,
    pending_deleted_slice_count: u64,
    pending_deleted_slice_size: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status {
    setting: Format,
    sessions: Vec<Session>,
    stat: Stat,
}

/// Prints the status.
///
/// # Errors
/// A sentence for the user when the volume cannot be read.
pub(crate) async fn run(args: &StatusArgs) -> Result<()> {
    let engine = open_engine(&args.meta_url, false).await?;
    let format = load_format(&engine).await?;
    let client = open_reader(&engine).await?;
    let sessions = client.sessions().await.context("list sessions")?;
    if args.session != 0 {
        let Some(session) = sessions.iter().find(|session| session.sid.0 == args.session) else {
            bail!("get session: there is no session {}", args.session);
        };
        terminal::print(&serde_json::to_string_pretty(&Session::of(session, true))?)?;
        return Ok(());
    }
    let usage = client.statfs(Ino::ROOT).await.context("read the use of the volume")?;
    let more = if args.more { Some(pending(&client).await?) } else { None };
    let status = Status {
        setting: shown(&format)?,
        sessions: sessions.iter().map(|session| Session::of(session, false)).collect(),
        stat: stat(usage, more),
    };
    terminal::print(&serde_json::to_string_pretty(&status)?)?;
    Ok(())
}

fn stat(usage: VolumeUsage, more: Option<Pending>) -> Stat {
    Stat {
        used_space: usage.total_bytes.saturating_sub(usage.available_bytes),
        available_space: usage.available_bytes,
        used_inodes: usage.used_inodes,
        available_inodes: usage.available_inodes,
        more,
    }
}

/// Counts by looking at every entry, which is slow.
async fn pending(client: &Arc<Client>) -> Result<Pending> {
    let mut out = Pending::default();
    if client.getattr(Ino::TRASH_ROOT).await.is_ok() {
        (out.trash_file_count, out.trash_file_size) = files_below(client.as_ref(), Ino::TRASH_ROOT).await?;
    }
    let now: Timestamp = SystemClock.now();
    for file in client.deleted_files(now, usize::MAX).await.context("list deleted files")? {
        out.pending_deleted_file_count += 1;
        out.pending_deleted_file_size += file.length;
    }
    for slice in client.dead_slices(usize::MAX).await.context("list pending slices")? {
        out.pending_deleted_slice_count += 1;
        out.pending_deleted_slice_size += u64::from(slice.size);
    }
    Ok(out)
}

/// How many names below a directory are no directories, and how long what they name is.
async fn files_below(meta: &dyn Meta, top: Ino) -> Result<(u64, u64)> {
    let (mut dirs, mut count, mut length) = (vec![top], 0, 0);
    while let Some(dir) = dirs.pop() {
        let mut listing = Listing::of(dir).with_attrs();
        while let Some(entries) = listing.next(meta).await.context("list the trash")? {
            for entry in entries {
                match entry.attr {
                    Some(attr) if attr.is_dir() => dirs.push(entry.ino),
                    Some(attr) => {
                        count += 1;
                        length += attr.length;
                    }
                    None => {}
                }
            }
        }
    }
    Ok((count, length))
}

#[cfg(test)]
mod tests {
    use juicefs_core::{Caller, FileType, SessionId, meta::NewNode};
    use juicefs_testkit::{mem_meta::MemMeta, unsteady::Unsteady};

    use super::*;

    #[test]
    fn the_known_json() {
        let info = br#"{"Version":"1.4.1","HostName":"vm","IPAddrs":["192.0.2.2"],"MountPoint":"/m","MountTime":"2026-11-21T05:03:30Z","ProcessID":7}"#;
        let session = SessionInfo {
            sid: SessionId(1),
            expire: Timestamp::from_secs(0),
            info: bytes::Bytes::from_static(info),
            sustained: vec![Ino(9)],
        };
        let format = Format { name: "vol".into(), secret_key: "s".into(), uuid: "u".into(), ..Format::default() };
        let usage = VolumeUsage { total_bytes: 10, available_bytes: 4, used_inodes: 1, available_inodes: 2 };
        let status = Status {
            setting: shown(&format).expect("writable"),
            sessions: vec![Session::of(&session, false)],
            stat: stat(usage, None),
        };
        let value = serde_json::to_value(&status).expect("writable");
        assert_eq!(value["Setting"]["SecretKey"], "removed");
        assert_eq!(value["Setting"]["KeyEncrypted"], true);
        assert_eq!(value["Sessions"][0]["IPAddrs"][0], "192.0.2.2");
        assert_eq!(value["Stat"]["UsedSpace"], 6);
        let keys: Vec<&String> = value["Sessions"][0].as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["Sid", "Expire", "Version", "HostName", "IPAddrs", "MountPoint", "MountTime", "ProcessID"]);
        let one = serde_json::to_value(Session::of(&session, true)).expect("writable");
        assert_eq!(one["Sustained"][0], 9);
        assert_eq!(value["Stat"].as_object().map(serde_json::Map::len), Some(4));
        let more = serde_json::to_value(stat(usage, Some(Pending::default()))).expect("writable");
        assert_eq!(more["TrashFileCount"], 0);
    }

    #[tokio::test]
    async fn what_is_in_the_trash_is_counted_once() {
        for anew_after in 0..4 {
            let meta = MemMeta::new(Arc::new(SystemClock));
            let node = |kind| NewNode { kind, mode: 0o755, umask: 0, rdev: 0, target: bytes::Bytes::new() };
            for n in 0..9 {
                let name = format!("hour{n}");
                let made = meta.mknod(&Caller::root(), Ino::ROOT, name.as_bytes(), node(FileType::Directory)).await;
                let dir = made.expect("made").0;
                for m in 0..7 {
                    let name = format!("file{m}");
                    let made = meta.mknod(&Caller::root(), dir, name.as_bytes(), node(FileType::File)).await;
                    meta.truncate(&Caller::root(), made.expect("made").0, 10, true).await.expect("grown");
                }
            }
            meta.list(Unsteady { page_len: 3, anew_after });
            assert_eq!(files_below(meta.as_ref(), Ino::ROOT).await.expect("counted"), (63, 630), "{anew_after}");
        }
    }
}
