//! This table says which of the names of `--storage` is reached in which way (cli.md §3).

/// Whether this build has the storages with interfaces of their own.
pub(super) const ALL: bool = cfg!(feature = "all-storage");

/// The way in which a storage is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// The storage is a directory of this machine.
    Directory,
    /// The storage is in the memory of this process.
    Memory,
    /// The storage speaks the S3 protocol.
    S3,
    /// The storage has an interface of its own, which builds with the feature `all-storage` have.
    Own,
    /// There is no way. The text says what a user can do instead, if there is something.
    Nothing(&'static str),
}

/// Every name that JuiceFS knows, and the way.
const STORAGES: &[(&str, Way)] = &[
    ("file", Way::Directory),
    ("mem", Way::Memory),
    ("s3", Way::S3),
    ("minio", Way::S3),
    ("b2", Way::S3),
    ("bos", Way::S3),
    ("cos", Way::S3),
    ("eos", Way::S3),
    ("gs", Way::S3),
    ("ibmcos", Way::S3),
    ("ks3", Way::S3),
    ("obs", Way::S3),
    ("oos", Way::S3),
    ("oss", Way::S3),
    ("qingstor", Way::S3),
    ("qiniu", Way::S3),
    ("scw", Way::S3),
    ("space", Way::S3),
    ("tos", Way::S3),
    ("wasabi", Way::S3),
    ("ceph", Way::Nothing("an S3 gateway before it works as s3")),
    ("storj", Way::Nothing("its S3 gateway works as s3, with keys made for it")),
    ("ufile", Way::Nothing("its S3 endpoint works as s3, with keys made for it")),
    ("wasb", Way::Own),
    ("swift", Way::Nothing("")),
    ("hdfs", Way::Nothing("")),
    ("sftp", Way::Nothing("")),
    ("webdav", Way::Own),
    ("redis", Way::Nothing("")),
    ("etcd", Way::Nothing("")),
    ("tikv", Way::Nothing("")),
    ("mysql", Way::Nothing("")),
    ("postgres", Way::Nothing("")),
    ("sqlite3", Way::Nothing("")),
    ("gluster", Way::Nothing("a mount of it works as file")),
    ("nfs", Way::Nothing("a mount of it works as file")),
    ("cifs", Way::Nothing("a mount of it works as file")),
    ("smb", Way::Nothing("a mount of it works as file")),
    ("bunny", Way::Nothing("")),
    ("dragonfly", Way::Nothing("")),
    ("jfs", Way::Nothing("")),
];

/// Finds the storage that `name` means, in upper or lower case. Returns its name as volumes store it, and the way.
///
/// # Errors
/// A sentence for the user when there is no way.
pub(super) fn find(name: &str) -> Result<(&'static str, Way), String> {
    let wanted = name.to_ascii_lowercase();
    let supported = || supported().join(", ");
    match STORAGES.iter().find(|(known, _)| *known == wanted) {
        Some((known, Way::Nothing(""))) => {
            Err(format!("object storage \"{known}\" is not supported; supported are: {}", supported()))
        }
        Some((known, Way::Nothing(instead))) => {
            Err(format!("object storage \"{known}\" is not supported, but {instead}; supported are: {}", supported()))
        }
        Some((known, Way::Own)) if !ALL => Err(format!(
            "object storage \"{known}\" is in builds with the feature all-storage only, which this one is not; supported \
             are: {}",
            supported()
        )),
        Some((known, way)) => Ok((known, *way)),
        None => Err(format!("object storage \"{name}\" is not known; supported are: {}", supported())),
    }
}

/// Lists the names that can be used.
#[must_use]
pub fn supported() -> Vec<&'static str> {
    let usable = |way: &Way| match way {
        Way::Nothing(_) => false,
        Way::Own => ALL,
        Way::Directory | Way::Memory | Way::S3 => true,
    };
    STORAGES.iter().filter(|(_, way)| usable(way)).map(|(name, _)| *name).collect()
}

/// Returns the name of a storage as volumes store it.
///
/// # Errors
/// A sentence for the user when the storage cannot be used.
pub fn storage_name(name: &str) -> Result<&'static str, String> {
    find(name).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_refused_with_a_sentence() {
        assert_eq!(find("S3"), Ok(("s3", Way::S3)));
        assert_eq!(find("File"), Ok(("file", Way::Directory)));
        let text = find("Ceph").expect_err("no way");
        assert!(text.starts_with("object storage \"ceph\" is not supported, but an S3 gateway"), "{text}");
        let text = find("bunny").expect_err("no way");
        assert!(text.contains("\"bunny\" is not supported; supported are: file, mem, s3, minio, b2"), "{text}");
        let text = find("S4").expect_err("unknown");
        assert!(text.contains("\"S4\" is not known; supported are: file"), "{text}");
    }

    #[test]
    fn some_storages_are_in_some_builds() {
        assert_eq!(find("wasb").is_ok(), ALL);
        assert_eq!(supported().contains(&"webdav"), ALL);
        assert!(ALL || find("WebDAV").expect_err("not in this build").contains("all-storage"));
    }

    #[test]
    fn a_name_is_there_once() {
        let mut names: Vec<_> = STORAGES.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STORAGES.len());
    }
}
