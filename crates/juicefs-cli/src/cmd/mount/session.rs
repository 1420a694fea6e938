//! What a mount tells other clients about itself (format: metadata.md §5.4).

use std::{path::Path, time::Duration};

use juicefs_core::version::CLIENT_VERSION;
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

use super::predecessors;
use crate::{cmd::status::SessionRecord, local_time};

/// The session record of this process.
pub(super) fn record(mountpoint: &Path, interfaces: &[String], heartbeat: Duration) -> SessionRecord {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    SessionRecord {
        version: CLIENT_VERSION.to_owned(),
        host_name: host,
        ip_addrs: addresses(interfaces),
        mount_point: mountpoint.to_string_lossy().into_owned(),
        mount_time: local_time::rfc3339(local_time::now()),
        process_id: i64::from(std::process::id()),
        process_space: predecessors::process_space().unwrap_or_default(),
        heartbeat: heartbeat.as_secs(),
    }
}

/// The addresses of the interfaces that are up, without the loopback. If interfaces are named, only theirs.
fn addresses(interfaces: &[String]) -> Vec<String> {
    let Ok(all) = getifaddrs() else {
        return Vec::new();
    };
    let mut out: Vec<String> = all
        .filter(|entry| {
            entry.flags.contains(InterfaceFlags::IFF_UP) && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        })
        .filter(|entry| interfaces.is_empty() || interfaces.contains(&entry.interface_name))
        .filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|v4| v4.ip().to_string());
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().to_string()))
        })
        .collect();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_has_the_known_keys() {
        let record = record(Path::new("/mnt/x"), &["no-such-interface".to_owned()], Duration::from_secs(12));
        let value = serde_json::to_value(&record).expect("writable");
        let keys: Vec<&String> = value.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["Version", "HostName", "MountPoint", "MountTime", "ProcessID", "ProcessSpace", "Heartbeat"]);
        assert_eq!((&value["ProcessID"], &value["Heartbeat"]), (&std::process::id().into(), &12.into()));
        assert!(addresses(&[]).iter().all(|address| address.parse::<std::net::IpAddr>().is_ok()));
    }
}
