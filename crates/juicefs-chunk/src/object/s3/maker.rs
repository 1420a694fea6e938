//! A bucket is made with a request of this file, because OpenDAL has none for it.

use async_trait::async_trait;
use http::{Method, Request, header};
use juicefs_core::StorageError;
use opendal::{Buffer, HttpTransporter};
use reqsign_aws_v4::{Credential, RequestSigner};
use reqsign_core::Signer;

use super::{
    bucket::{Bucket, DEFAULT_REGION},
    keys::{Keys, signing_context},
};
use crate::object::{
    dal::{MakeBucket, failure},
    http::{Outcome, Refusal},
};

/// Makes the bucket of a storage.
#[derive(Debug)]
pub(super) struct BucketMaker {
    signer: Signer<Credential>,
    transport: HttpTransporter,
    url: String,
    region: String,
    place: String,
}

impl BucketMaker {
    pub(super) fn new(bucket: &Bucket, keys: &Keys, transport: HttpTransporter) -> Self {
        Self {
            signer: Signer::new(signing_context(&transport), keys.chain(), RequestSigner::new("s3", &bucket.region)),
            transport,
            url: bucket.url(),
            region: bucket.region.clone(),
            place: bucket.describe(),
        }
    }
}

#[async_trait]
impl MakeBucket for BucketMaker {
    async fn make(&self) -> Result<(), StorageError> {
        // The one region that must not be named.
        let body = match self.region.as_str() {
            DEFAULT_REGION | "auto" => String::new(),
            region => format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ),
        };
        let broken =
            |e: &dyn std::fmt::Display| StorageError::Permanent(format!("bucket {} cannot be made: {e}", self.place));
        let request = Request::builder()
            .method(Method::PUT)
            .uri(&self.url)
            .header(header::CONTENT_LENGTH, body.len())
            .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
            .body(Buffer::from(body))
            .map_err(|e| broken(&e))?;
        let (mut parts, body) = request.into_parts();
        self.signer.sign(&mut parts, None).await.map_err(|e| broken(&e))?;
        // What was signed is what the connection will say by itself.
        parts.headers.remove(header::HOST);
        match self.transport.send(Request::from_parts(parts, body)).await {
            Ok(_) => Ok(()),
            Err(e) if Refusal::of(&e).is_some_and(|refusal| refusal.outcome() == Outcome::BucketExists) => Ok(()),
            Err(e) => Err(failure(&e, "the bucket", &self.place)),
        }
    }
}
