//! Builds with the feature `all-storage` have these storages, whose own interfaces OpenDAL speaks.
//!
//! Their objects carry no checksum in their metadata, and their errors are sorted by what OpenDAL makes of them.

use juicefs_core::{Format, StorageError};
use juicefs_tls::TlsFiles;
use opendal::{
    HttpTransporter, OperationContext, Operator,
    services::{Azblob, Gcs, Webdav},
};
use opendal_http_transport_reqwest::ReqwestTransport;
use url::Url;

use super::{
    dal::{Abilities, DalStorage},
    opening::{Opening, Variables},
};

/// Where Azure has its blobs when an address does not say it.
const AZURE: &str = "blob.core.windows.net";

/// Opens the store of a volume.
///
/// # Errors
/// `Permanent` with a sentence for the user.
pub(super) fn open(opening: Opening<'_>) -> Result<DalStorage, StorageError> {
    let Opening { storage, bucket, format, variables, clients } = opening;
    let (operator, place) = match storage {
        "gs" => google(bucket, format),
        "wasb" => azure(bucket, format, variables),
        "webdav" => webdav(bucket, format),
        _ => Err(format!("object storage \"{storage}\" is not supported")),
    }
    .map_err(StorageError::Permanent)?;
    let transport = HttpTransporter::new(ReqwestTransport::new(clients.get(&TlsFiles::default())?));
    let operator = operator.with_context(OperationContext::new().with_http_transport(transport));
    Ok(DalStorage::bucket(operator, place, Abilities::default()))
}

fn parsed(storage: &str, bucket: &str, scheme: &str, form: &str) -> Result<Url, String> {
    let text = if bucket.contains("://") { bucket.to_owned() } else { format!("{scheme}://{bucket}") };
    let bad =
        |why: &str| format!("bucket \"{bucket}\" of storage {storage} is not valid: {why}; it should be like {form}");
    let url = Url::parse(text.trim_end_matches('/')).map_err(|e| bad(&e.to_string()))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad("it has no host"));
    }
    Ok(url)
}

fn unusable(place: &str) -> impl Fn(opendal::Error) -> String {
    let place = place.to_owned();
    move |e| format!("{place} cannot be used: {e}")
}

/// Opens Google's storage with the keys that Google's tools find.
fn google(bucket: &str, format: &Format) -> Result<(Operator, String), String> {
    let url = parsed("gs", bucket, "gs", "gs://BUCKET")?;
    let name = url.host_str().unwrap_or_default().split('.').next().unwrap_or_default().to_owned();
    let place = format!("gs://{name}/");
    let builder = Gcs::default().bucket(&name).default_storage_class(&format.storage_class);
    Ok((Operator::new(builder).map_err(unusable(&place))?, place))
}

/// Opens Azure's storage. The access key is the account. Keys come from a connection string, the secret key, a SAS token in
/// the place of the session token, or from where Azure's tools find them.
fn azure(bucket: &str, format: &Format, variables: &Variables<'_>) -> Result<(Operator, String), String> {
    let url = parsed("wasb", bucket, "https", "https://CONTAINER.core.windows.net")?;
    let host = url.host_str().unwrap_or_default();
    let (container, domain) = match host.split_once('.') {
        None => (host, AZURE.to_owned()),
        Some((container, domain)) if domain.starts_with("blob") => (container, domain.to_owned()),
        Some((container, domain)) => (container, format!("blob.{domain}")),
    };
    let place = format!("wasb://{container}/");
    let builder = match variables("AZURE_STORAGE_CONNECTION_STRING") {
        Some(text) => Azblob::from_connection_string(&text).map_err(unusable(&place))?,
        None if format.access_key.is_empty() => {
            return Err(format!("{place} needs an account: name it with --access-key"));
        }
        None => {
            let account = &format.access_key;
            let builder =
                Azblob::default().endpoint(&format!("{}://{account}.{domain}", url.scheme())).account_name(account);
            let sas = format.session_token.trim().trim_start_matches('?');
            match (format.secret_key.as_str(), sas) {
                ("", "") => builder,
                ("", sas) => builder.sas_token(sas),
                (key, _) => builder.account_key(key),
            }
        }
    };
    let builder = builder.container(container);
    Ok((Operator::new(builder).map_err(unusable(&place))?, place))
}

/// Opens a WebDAV server, with a user and a password.
fn webdav(bucket: &str, format: &Format) -> Result<(Operator, String), String> {
    let url = parsed("webdav", bucket, "http", "https://HOST/PATH")?;
    let endpoint = url.origin().ascii_serialization();
    let place = format!("webdav://{}{}/", url.authority(), url.path().trim_end_matches('/'));
    let mut builder = Webdav::default().endpoint(&endpoint).root(url.path());
    if !format.access_key.is_empty() {
        builder = builder.username(&format.access_key).password(&format.secret_key);
    }
    Ok((Operator::new(builder).map_err(unusable(&place))?, place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::opening::Clients;

    fn opened(storage: &'static str, bucket: &str, access: &str, secret: &str) -> Result<String, String> {
        let format = Format { access_key: access.into(), secret_key: secret.into(), ..Format::default() };
        let clients = &mut Clients::default();
        open(Opening { storage, bucket, format: &format, variables: &|_| None, clients })
            .map(|store| juicefs_core::ObjectStorage::describe(&store))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(opened("gs", "gs://b", "", ""), Ok("gs://b/".to_owned()));
        assert_eq!(opened("gs", "b.europe-west1", "", ""), Ok("gs://b/".to_owned()));
        assert_eq!(opened("wasb", "https://c.core.windows.net", "a", "a2V5"), Ok("wasb://c/".to_owned()));
        assert_eq!(opened("wasb", "c", "a", ""), Ok("wasb://c/".to_owned()));
        assert_eq!(opened("webdav", "https://h:8443/a/b/", "u", "p"), Ok("webdav://h:8443/a/b/".to_owned()));
        assert_eq!(opened("webdav", "h", "", ""), Ok("webdav://h/".to_owned()));
    }

    #[test]
    fn what_cannot_work_is_said() {
        assert!(opened("wasb", "c", "", "").expect_err("no account").contains("--access-key"));
        assert!(opened("wasb", "c", "a", "no base64!").expect_err("no key").contains("base64"));
        assert!(opened("webdav", "http://", "", "").expect_err("no host").contains("https://HOST/PATH"));
    }
}
