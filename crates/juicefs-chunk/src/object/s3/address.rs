//! The address of a bucket is taken apart as a URL (cli.md §3).

use juicefs_tls::TlsFiles;
use url::Url;

use super::bucket::{Bucket, is_aws};
use crate::object::opening::Variables;

/// The parts of an address.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) storage: &'static str,
    /// The address as it was given, for messages.
    pub(super) given: String,
    pub(super) scheme: String,
    pub(super) host: String,
    /// Whether the host is a number, of which a bucket cannot be a part.
    pub(super) is_ip: bool,
    /// The first part of the path, if there is one.
    pub(super) path: Option<String>,
    region: Option<String>,
    checksum: bool,
    tls: TlsFiles,
}

impl Address {
    /// Takes an address apart.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(super) fn parse(storage: &'static str, given: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("bucket \"{given}\" of storage {storage} is not valid: {why}");
        let text = given.trim().trim_end_matches('/');
        if text.is_empty() {
            return Err(bad("it is empty; --bucket names it"));
        }
        let text = match text.split_once("://") {
            Some(("gs", rest)) if storage == "gs" => format!("https://{rest}"),
            Some(("http" | "https", _)) => text.to_owned(),
            Some((scheme, _)) => return Err(bad(&format!("{scheme}:// is neither http:// nor https://"))),
            None => format!("{}://{text}", default_scheme(storage, text)),
        };
        let url = Url::parse(&text).map_err(|e| bad(&e.to_string()))?;
        let host = match (url.host_str(), url.port()) {
            (None | Some(""), _) => return Err(bad("it has no host")),
            (Some(host), None) => host.to_owned(),
            (Some(host), Some(port)) => format!("{host}:{port}"),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("keys do not belong there; --access-key and --secret-key name them"));
        }
        let mut parts = url.path().split('/').filter(|part| !part.is_empty());
        let mut path = parts.next();
        if storage == "minio" && path == Some("minio") {
            // The address of a bucket in MinIO's console.
            path = parts.next().or(path);
        }
        let mut address = Self {
            storage,
            given: given.to_owned(),
            scheme: url.scheme().to_owned(),
            host,
            is_ip: matches!(url.host(), Some(url::Host::Ipv4(_) | url::Host::Ipv6(_))),
            path: path.map(str::to_owned),
            region: None,
            checksum: true,
            tls: TlsFiles::default(),
        };
        address.read_query(&url).map_err(|why| bad(&why))?;
        Ok(address)
    }

    fn read_query(&mut self, url: &Url) -> Result<(), String> {
        let (mut certificate, mut key) = (None, None);
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "region" => self.region = Some(value.into_owned()),
                "disable-checksum" => self.checksum = !value.eq_ignore_ascii_case("true"),
                // Requests here do not wait for a permission to go on.
                "disable-100-continue" => {}
                "tls-insecure-skip-verify" => {
                    self.tls.skip_verify = match value.to_ascii_lowercase().as_str() {
                        "1" | "t" | "true" => true,
                        "0" | "f" | "false" => false,
                        _ => return Err(format!("tls-insecure-skip-verify={value} is neither true nor false")),
                    };
                }
                "ca-certs" => self.tls.authorities = Some(value.into_owned().into()),
                "ssl-cert" => certificate = Some(value.into_owned()),
                "ssl-key" => key = Some(value.into_owned()),
                other => tracing::warn!("option {other} of bucket {} is not known and ignored", self.given),
            }
        }
        self.tls.client = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => {
                tracing::warn!("ssl-cert and ssl-key of bucket {} go together: the one is ignored", self.given);
                None
            }
        };
        Ok(())
    }

    /// Splits the host into its first label, which is the bucket, and the rest.
    pub(super) fn split_host(&self) -> Option<(&str, &str)> {
        self.host.split_once('.').filter(|(bucket, rest)| !bucket.is_empty() && !rest.is_empty())
    }

    /// Makes the bucket `name` at `host`. A region in the address goes before `region`.
    pub(super) fn bucket(&self, host: &str, name: &str, region: &str, path_style: bool) -> Bucket {
        Bucket {
            storage: self.storage,
            scheme: self.scheme.clone(),
            host: host.to_owned(),
            name: name.to_owned(),
            region: self.region.clone().unwrap_or_else(|| region.to_owned()),
            // A name with dots is no label of a host, and no certificate has it.
            path_style: path_style || name.contains('.'),
            checksum: self.checksum,
            tls: self.tls.clone(),
        }
    }
}

fn default_scheme(storage: &str, text: &str) -> &'static str {
    match storage {
        "minio" => "http",
        "s3" if text.contains('.') && !is_aws(text.split(['/', '?']).next().unwrap_or(text)) => "http",
        _ => "https",
    }
}

/// Whether buckets are part of the path, where the storage leaves that to `JFS_S3_VHOST_STYLE`.
pub(super) fn path_style(variables: &Variables<'_>) -> bool {
    variables("JFS_S3_VHOST_STYLE")
        .is_none_or(|value| matches!(value.to_ascii_lowercase().as_str(), "" | "0" | "false"))
}

/// Returns the region that the environment names.
pub(super) fn region_variable(variables: &Variables<'_>) -> Option<String> {
    variables("AWS_REGION").or_else(|| variables("AWS_DEFAULT_REGION")).filter(|region| !region.is_empty())
}
