//! These storages speak S3: AWS, everything compatible, and vendors with an S3 interface beside their own.
//!
//! Requests are signed with version 4 over an unsigned payload, sent once (retries are the data path's) and carry the
//! CRC-32C of the body as the metadata `crc32c` (format: data.md §2.4).

mod address;
mod bucket;
mod forms;
mod keys;
mod listing;
mod maker;
mod vendors;

use juicefs_core::{Format, StorageError, format::Tier};
use opendal::{HttpTransporter, OperationContext, Operator, services::S3};

use self::{keys::Keys, listing::Lister, maker::BucketMaker};
use super::{
    dal::{Abilities, DalStorage, ListObjects, MakeBucket},
    http::Endpoint,
    opening::Opening,
};

/// Opens the bucket of a volume.
///
/// # Errors
/// `Permanent` with a sentence for the user.
pub(super) fn open(opening: Opening<'_>) -> Result<DalStorage, StorageError> {
    let Opening { storage, bucket: given, format, variables, clients } = opening;
    let bucket = forms::bucket(storage, given, variables).map_err(StorageError::Permanent)?;
    let keys = Keys::of(storage, format, variables).map_err(StorageError::Permanent)?;
    let transport = HttpTransporter::new(Endpoint::new(clients.get(&bucket.tls)?, &bucket.host));
    // The builder takes the bucket off the front of the host, even where the host only looks like it begins with one.
    // Given there in any case, nothing but the bucket is taken.
    let endpoint = format!("{}://{}.{}", bucket.scheme, bucket.name, bucket.host);
    let mut builder = S3::default()
        .bucket(&bucket.name)
        .endpoint(&endpoint)
        .region(&bucket.region)
        .default_storage_class(storage_class(format));
    if !bucket.path_style {
        builder = builder.enable_virtual_host_style();
    }
    builder = match &keys {
        Keys::Anonymous => builder.skip_signature(),
        Keys::Given { .. } | Keys::Found => builder.credential_provider_chain(keys.chain()),
    };
    let operator = Operator::new(builder)
        .map_err(|e| StorageError::Permanent(format!("bucket \"{given}\" of storage {storage} cannot be used: {e}")))?
        .with_context(OperationContext::new().with_http_transport(transport.clone()));
    if !tag(format).is_empty() {
        tracing::warn!("the tag \"{}\" is not sent: objects are stored without tags", tag(format));
    }
    let maker = (keys != Keys::Anonymous).then(|| BucketMaker::new(&bucket, &keys, transport.clone()));
    let abilities = Abilities {
        checksum: bucket.checksum,
        maker: maker.map(|maker| Box::new(maker) as Box<dyn MakeBucket>),
        lister: Some(Box::new(Lister::new(&bucket, &keys, transport)) as Box<dyn ListObjects>),
    };
    Ok(DalStorage::bucket(operator, bucket.describe(), abilities))
}

/// The storage class of new objects, empty for that of the bucket.
fn storage_class(format: &Format) -> &str {
    tier(format).map_or(&format.storage_class, |tier| &tier.storage_class)
}

fn tag(format: &Format) -> &str {
    tier(format).map_or("", |tier| &tier.tag)
}

/// The tier that files are in without being put into another.
fn tier(format: &Format) -> Option<&Tier> {
    format.tiers.as_ref()?.get("0")
}
