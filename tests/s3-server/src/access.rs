//! Who may do what.

use std::path::PathBuf;

use s3s::{
    S3Request, S3Result,
    access::{S3Access, S3AccessContext},
    dto::ListObjectsV2Input,
    path::S3Path,
    s3_error,
};

/// What buckets without a key can be read from.
const PUBLIC: &str = "public-";

/// The rules of this server.
pub(crate) struct Rules {
    pub(crate) root: PathBuf,
    /// A session token that has been good until a moment ago.
    pub(crate) expired_token: Option<String>,
}

#[async_trait::async_trait]
impl S3Access for Rules {
    async fn check(&self, request: &mut S3AccessContext<'_>) -> S3Result<()> {
        let token = request.headers().get("x-amz-security-token").map(|value| value.as_bytes());
        if token.is_some() && token == self.expired_token.as_deref().map(str::as_bytes) {
            return Err(s3_error!(ExpiredToken, "The provided token has expired."));
        }
        let bucket = match request.s3_path() {
            S3Path::Root => None,
            S3Path::Bucket { bucket } | S3Path::Object { bucket, .. } => Some(bucket.as_ref()),
        };
        if request.credentials().is_none() {
            let reads = matches!(request.s3_op().name(), "GetObject" | "HeadObject" | "ListObjectsV2");
            if !(reads && bucket.is_some_and(|bucket| bucket.starts_with(PUBLIC))) {
                return Err(s3_error!(AccessDenied, "Access Denied"));
            }
        }
        // The file system beneath would make the bucket with the first object, and miss only the object on reading.
        match bucket {
            Some(bucket) if request.s3_op().name() != "CreateBucket" && !self.root.join(bucket).is_dir() => {
                Err(s3_error!(NoSuchBucket, "The specified bucket does not exist"))
            }
            _ => Ok(()),
        }
    }

    /// An empty delimiter is none; the file system beneath would find nothing with it. Nor does it encode keys, though it
    /// would say that it does.
    async fn list_objects_v2(&self, request: &mut S3Request<ListObjectsV2Input>) -> S3Result<()> {
        request.input.encoding_type = None;
        request.input.delimiter.take_if(|delimiter| delimiter.is_empty());
        Ok(())
    }
}
