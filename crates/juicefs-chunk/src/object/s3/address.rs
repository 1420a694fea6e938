//! From `--storage` and `--bucket` to a place that speaks S3 (cli.md §3).

use url::Url;

use super::vendors;
use juicefs_tls::TlsFiles;

use crate::object::Variables;

/// Region of requests to whoever does not care.
pub(super) const DEFAULT_REGION: &str = "us-east-1";

/// A bucket and how to speak to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The name of the storage.
    pub(super) storage: &'static str,
    /// `http` or `https`.
    pub(super) scheme: String,
    /// Host, and port if it is not the scheme's, without the bucket.
    pub(super) host: String,
    pub(super) bucket: String,
    pub(super) region: String,
    /// Whether the bucket is part of the path instead of the host.
    pub(super) path_style: bool,
    /// Whether objects carry a CRC-32C in their metadata.
    pub(super) checksum: bool,
    pub(super) tls: TlsFiles,
}

impl Place {
    /// Reads the forms of `--bucket` that `storage` has.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(super) fn parse(storage: &'static str, bucket: &str, variables: &Variables<'_>) -> Result<Self, String> {
        let address = Address::parse(storage, bucket)?;
        match storage {
            "s3" => address.of_s3(variables),
            "minio" => address.of_minio(variables),
            "gs" => address.of_gs(),
            _ => vendors::place(&address, variables),
        }
    }

    /// Where requests about the bucket itself go.
    pub(super) fn bucket_url(&self) -> String {
        match self.path_style {
            true => format!("{}://{}/{}", self.scheme, self.host, self.bucket),
            false => format!("{}://{}.{}/", self.scheme, self.bucket, self.host),
        }
    }

    /// Where it is, for people.
    pub(super) fn describe(&self) -> String {
        if self.is_aws() {
            format!("{}://{}/", self.storage, self.bucket)
        } else {
            format!("{}://{}/{}/", self.storage, self.host, self.bucket)
        }
    }

    fn is_aws(&self) -> bool {
        is_aws(&self.host)
    }
}

/// A bucket's address, taken apart as a URL.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) storage: &'static str,
    /// As it was given, for messages.
    pub(super) given: String,
    pub(super) scheme: String,
    pub(super) host: String,
    /// Whether the host is a number, of which a bucket cannot be a part.
    is_ip: bool,
    /// The first part of the path, if there is one.
    pub(super) path: Option<String>,
    region: Option<String>,
    checksum: bool,
    tls: TlsFiles,
}

impl Address {
    fn parse(storage: &'static str, given: &str) -> Result<Self, String> {
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

    /// The bucket from the host's first label, with the rest of the host.
    pub(super) fn split_host(&self) -> Option<(&str, &str)> {
        self.host.split_once('.').filter(|(bucket, rest)| !bucket.is_empty() && !rest.is_empty())
    }

    pub(super) fn place(&self, host: &str, bucket: &str, region: &str, path_style: bool) -> Place {
        Place {
            storage: self.storage,
            scheme: self.scheme.clone(),
            host: host.to_owned(),
            bucket: bucket.to_owned(),
            region: self.region.clone().unwrap_or_else(|| region.to_owned()),
            // A name with dots is no label of a host, and no certificate has it.
            path_style: path_style || bucket.contains('.'),
            checksum: self.checksum,
            tls: self.tls.clone(),
        }
    }

    fn of_s3(&self, variables: &Variables<'_>) -> Result<Place, String> {
        let fallback = region_variable(variables).unwrap_or_else(|| DEFAULT_REGION.to_owned());
        let style = path_style(variables);
        if let Some(bucket) = &self.path {
            return Ok(match aws_region(&self.host) {
                Some(region) => self.place(&self.host, bucket, &region, false),
                None => self.place(&self.host, bucket, &fallback, style),
            });
        }
        if self.is_ip {
            return Err(format!(
                "bucket \"{}\" of storage s3 is not valid: it names no bucket, as http://HOST:PORT/BUCKET does",
                self.given
            ));
        }
        let Some((bucket, rest)) = self.split_host() else {
            // Without an endpoint it is a bucket of AWS in the region of this machine.
            return Ok(self.place(&format!("s3.{fallback}.amazonaws.com"), &self.host, &fallback, false));
        };
        if let Some(zone) = self.host.strip_suffix(".vpce.amazonaws.com").and_then(|host| host.rsplit('.').next()) {
            return Ok(self.place(rest, bucket, zone, style));
        }
        if is_aws(&self.host) {
            let Some(at) = self.host.find(".s3") else {
                return Err(format!(
                    "bucket \"{}\" of storage s3 is not valid: an address at AWS is like \
                     https://BUCKET.s3.REGION.amazonaws.com",
                    self.given
                ));
            };
            let (bucket, endpoint) = (&self.host[..at], &self.host[at + 1..]);
            let region = aws_region(endpoint).unwrap_or(fallback);
            return Ok(self.place(endpoint, bucket, &region, false));
        }
        let region = region_in_host(rest).unwrap_or(fallback);
        Ok(self.place(rest, bucket, &region, style))
    }

    fn of_minio(&self, variables: &Variables<'_>) -> Result<Place, String> {
        let Some(bucket) = &self.path else {
            return Err(format!(
                "bucket \"{}\" of storage minio is not valid: it names no bucket, as http://HOST:9000/BUCKET does",
                self.given
            ));
        };
        let region = variables("MINIO_REGION").unwrap_or_else(|| DEFAULT_REGION.to_owned());
        Ok(self.place(&self.host, bucket, &region, path_style(variables)))
    }

    /// Google's storage by its S3 interface; the region in the address is only of use for making buckets.
    fn of_gs(&self) -> Result<Place, String> {
        let bucket = self.host.split('.').next().unwrap_or(&self.host);
        Ok(self.place("storage.googleapis.com", bucket, "auto", true))
    }
}

fn default_scheme(storage: &str, text: &str) -> &'static str {
    match storage {
        "minio" => "http",
        "s3" if text.contains('.') && !is_aws(text.split(['/', '?']).next().unwrap_or(text)) => "http",
        _ => "https",
    }
}

/// Whether buckets are part of the path where that is not decided by the storage.
pub(super) fn path_style(variables: &Variables<'_>) -> bool {
    variables("JFS_S3_VHOST_STYLE")
        .is_none_or(|value| matches!(value.to_ascii_lowercase().as_str(), "" | "0" | "false"))
}

/// The region that the environment names.
pub(super) fn region_variable(variables: &Variables<'_>) -> Option<String> {
    variables("AWS_REGION").or_else(|| variables("AWS_DEFAULT_REGION")).filter(|region| !region.is_empty())
}

fn is_aws(host: &str) -> bool {
    host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")
}

/// The region of `s3.REGION.amazonaws.com`, `s3-REGION.…`, `s3.dualstack.REGION.…` and their Chinese kin.
fn aws_region(host: &str) -> Option<String> {
    if !is_aws(host) {
        return None;
    }
    let rest = host.strip_prefix("s3-").or_else(|| host.strip_prefix("s3.")).unwrap_or(host);
    let rest = rest.strip_prefix("dualstack.").unwrap_or(rest);
    let region = rest.split('.').next().unwrap_or(rest);
    Some(match region {
        "amazonaws" | "external-1" => DEFAULT_REGION.to_owned(),
        region => region.to_owned(),
    })
}

/// The region in the hosts of those compatible services that check it.
fn region_in_host(host: &str) -> Option<String> {
    let labels: Vec<&str> = host.split('.').collect();
    match labels[..] {
        // Oracle: NAMESPACE.compat.objectstorage.REGION.oraclecloud.com
        [_, "compat", "objectstorage", region, "oraclecloud", "com"] => Some(region.to_owned()),
        // OVH: s3.REGION.io.cloud.ovh.net and its other zones
        ["s3", region, .., "ovh", "net" | "us" | "ca"] => Some(region.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
