//! TLS to a server.

use std::{io, sync::Arc};

use juicefs_tls::OptionNames;
use rustls::{CertificateError, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::trouble::SetupError;
use crate::engine::redis::address::{Host, TlsFiles};

const OPTIONS: OptionNames =
    OptionNames { authorities: "tls-ca-cert-file", certificate: "tls-cert-file", key: "tls-key-file" };

/// Certificates, read once.
pub(super) struct TlsClient {
    connector: TlsConnector,
    server_name: Option<String>,
}

impl TlsClient {
    /// Reads the files that the options name.
    ///
    /// # Errors
    /// One sentence about the file.
    pub(super) fn new(files: &TlsFiles) -> Result<Self, String> {
        let TlsFiles { client, authorities, skip_verify, server_name } = files.clone();
        let files = juicefs_tls::TlsFiles { client, authorities, skip_verify };
        if !files.has_authorities() {
            return Err("this system has no certificates of authorities; name a file with tls-ca-cert-file".to_owned());
        }
        let config = files.config(&OPTIONS).map_err(|error| error.to_string())?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name })
    }

    /// Shakes hands on a fresh connection to `host`.
    pub(super) async fn connect(&self, host: &Host, stream: TcpStream) -> Result<TlsStream<TcpStream>, SetupError> {
        let name = self.server_name.as_ref().unwrap_or(&host.name);
        let server_name = ServerName::try_from(name.clone())
            .map_err(|_| SetupError::Refused(format!("\"{name}\" is no name that a certificate can have")))?;
        self.connector.connect(server_name, stream).await.map_err(|error| explain(host, name, &error))
    }
}

/// A sentence for what a user can do something about.
fn explain(host: &Host, name: &str, error: &io::Error) -> SetupError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => SetupError::Refused(format!(
            "the certificate of {host} is from nobody who is trusted; name its authority with tls-ca-cert-file"
        )),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => SetupError::Refused(format!(
            "the certificate of {host} is not for \"{name}\"; name the right one with tls-server-name"
        )),
        Some(rustls::Error::InvalidCertificate(why)) => {
            SetupError::Refused(format!("the certificate of {host} is not valid: {why}"))
        }
        Some(rustls::Error::InvalidMessage(_)) => {
            SetupError::Refused(format!("{host} does not speak TLS; use redis:// for it"))
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            SetupError::Refused(format!("{host} refuses the TLS connection: {alert:?}"))
        }
        Some(other) => SetupError::Refused(format!("TLS with {host} failed: {other}")),
        None => SetupError::Unreachable(format!(
            "{host} broke off while TLS was set up: {error}; if it does not use TLS, write redis://"
        )),
    }
}
