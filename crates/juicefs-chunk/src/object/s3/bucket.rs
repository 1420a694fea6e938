//! A bucket is described by where it is and how it is spoken to.

use juicefs_tls::TlsFiles;

/// The region that is named to services which do not care.
pub(super) const DEFAULT_REGION: &str = "us-east-1";

/// A bucket and how it is spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bucket {
    /// The name of the storage.
    pub(super) storage: &'static str,
    /// `http` or `https`.
    pub(super) scheme: String,
    /// Host, and port if it is not the scheme's, without the bucket.
    pub(super) host: String,
    pub(super) name: String,
    pub(super) region: String,
    /// Whether the name is part of the path instead of the host.
    pub(super) path_style: bool,
    /// Whether objects carry a CRC-32C in their metadata.
    pub(super) checksum: bool,
    pub(super) tls: TlsFiles,
}

impl Bucket {
    /// Returns the URL for requests about the bucket itself.
    pub(super) fn url(&self) -> String {
        match self.path_style {
            true => format!("{}://{}/{}", self.scheme, self.host, self.name),
            false => format!("{}://{}.{}/", self.scheme, self.name, self.host),
        }
    }

    /// Says for people where the bucket is.
    pub(super) fn describe(&self) -> String {
        if is_aws(&self.host) {
            format!("{}://{}/", self.storage, self.name)
        } else {
            format!("{}://{}/{}/", self.storage, self.host, self.name)
        }
    }
}

/// Whether a host belongs to AWS.
pub(super) fn is_aws(host: &str) -> bool {
    host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")
}
