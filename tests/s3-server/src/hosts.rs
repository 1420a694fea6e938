//! Where a request has its bucket.

use s3s::{
    S3Result,
    host::{S3Host, VirtualHost},
};

/// Buckets are part of hosts below a domain. Any other host is one that requests came by, through a proxy perhaps.
pub(crate) struct Hosts {
    pub(crate) domain: String,
}

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let bucket = host.strip_suffix(self.domain.as_str()).and_then(|rest| rest.strip_suffix('.'));
        Ok(match bucket {
            Some(bucket) => VirtualHost::new(self.domain.as_str()).with_bucket(bucket),
            None => VirtualHost::new(host),
        })
    }
}
