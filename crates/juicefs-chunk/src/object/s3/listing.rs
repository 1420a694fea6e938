//! A bucket is listed with encoded keys, which OpenDAL does not ask for.
//!
//! XML has no way to write a control character. Servers that put one into a listing all the same, or something in its place,
//! would name another object than there is.

use async_trait::async_trait;
use http::{Method, Request, header, request::Parts};
use juicefs_core::{StorageError, Timestamp, store::ObjectInfo};
use opendal::{Buffer, HttpTransporter};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqsign_aws_v4::{Credential, RequestSigner};
use reqsign_core::Signer;
use serde::Deserialize;

use super::{
    bucket::Bucket,
    keys::{Keys, signing_context},
};
use crate::object::dal::{ListObjects, failure, unsigned};

/// The most entries of one page.
const PAGE: usize = 1000;
/// These characters are not encoded in the values of a query.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Lists a bucket.
#[derive(Debug)]
pub(super) struct Lister {
    /// `None` when requests are not signed.
    signer: Option<Signer<Credential>>,
    transport: HttpTransporter,
    url: String,
    place: String,
}

/// A page of a listing.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Page {
    is_truncated: bool,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
    contents: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Entry {
    key: String,
    size: u64,
    last_modified: String,
}

impl Lister {
    pub(super) fn new(bucket: &Bucket, keys: &Keys, transport: HttpTransporter) -> Self {
        let signer = (*keys != Keys::Anonymous)
            .then(|| Signer::new(signing_context(&transport), keys.chain(), RequestSigner::new("s3", &bucket.region)));
        Self { signer, transport, url: bucket.url(), place: bucket.describe() }
    }

    async fn page(&self, prefix: &str, after: &str, token: Option<&str>, most: usize) -> Result<Page, StorageError> {
        let most = most.to_string();
        let mut query = vec![("encoding-type", "url"), ("list-type", "2"), ("max-keys", most.as_str())];
        match token {
            Some(token) => query.push(("continuation-token", token)),
            None if !after.is_empty() => query.push(("start-after", after)),
            None => {}
        }
        if !prefix.is_empty() {
            query.push(("prefix", prefix));
        }
        let pairs: Vec<_> =
            query.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, PLAIN))).collect();
        let request = self.signed(&format!("{}?{}", self.url, pairs.join("&"))).await?;
        let failed = |e: &opendal::Error| failure(e, prefix, &self.place);
        let text = self.transport.send(request).await.map_err(|e| failed(&e))?.into_body().to_bytes();
        quick_xml::de::from_reader(&text[..])
            .map_err(|e| StorageError::Transient(format!("{} answers with no listing: {e}", self.place)))
    }

    async fn signed(&self, url: &str) -> Result<Request<Buffer>, StorageError> {
        let broken =
            |e: &dyn std::fmt::Display| StorageError::Permanent(format!("{} cannot be listed: {e}", self.place));
        let request = Request::builder()
            .method(Method::GET)
            .uri(url)
            .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
            .body(Buffer::new())
            .map_err(|e| broken(&e))?;
        let (mut parts, body): (Parts, Buffer) = request.into_parts();
        if let Some(signer) = &self.signer {
            signer.sign(&mut parts, None).await.map_err(|e| unsigned(&e, &self.place))?;
            // What was signed is what the connection will say by itself.
            parts.headers.remove(header::HOST);
        }
        Ok(Request::from_parts(parts, body))
    }
}

#[async_trait]
impl ListObjects for Lister {
    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>, StorageError> {
        let mut found = Vec::new();
        let (mut last, mut token) = (after.to_owned(), None);
        while found.len() < limit {
            let page = self.page(prefix, &last, token.as_deref(), (limit - found.len()).min(PAGE)).await?;
            let Some(entry) = page.contents.last() else { break };
            last = page.plain(&entry.key);
            for entry in &page.contents {
                let key = page.plain(&entry.key);
                // What ends in a slash stands for a directory.
                if key.starts_with(prefix) && key.as_str() > after && !key.ends_with('/') {
                    found.push(ObjectInfo { mtime: entry.mtime(), size: entry.size, key });
                }
            }
            token = page.next_continuation_token;
            if !page.is_truncated {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

impl Page {
    /// Decodes a key if the server says that keys are encoded.
    fn plain(&self, key: &str) -> String {
        match self.encoding_type.as_deref() {
            Some("url") => percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned(),
            _ => key.to_owned(),
        }
    }
}

impl Entry {
    fn mtime(&self) -> Timestamp {
        let at = self.last_modified.parse::<jiff::Timestamp>().unwrap_or_default();
        Timestamp::from_nanos(at.as_nanosecond())
    }
}
