//! TLS to a server.

use std::{fmt, io, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::trouble::SetupError;
use crate::engine::redis::address::{Host, TlsFiles};

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
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be used: {error}"))?;
        let builder = if files.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        } else {
            builder.with_root_certificates(authorities(files)?)
        };
        let config = match &files.client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_file_iter(certificate)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| format!("tls-cert-file {} cannot be read: {error}", certificate.display()))?;
                let private = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| format!("tls-key-file {} cannot be read: {error}", key.display()))?;
                builder.with_client_auth_cert(chain, private).map_err(|error| {
                    format!(
                        "tls-cert-file {} and tls-key-file {} do not fit: {error}",
                        certificate.display(),
                        key.display()
                    )
                })?
            }
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), server_name: files.server_name.clone() })
    }

    /// Shakes hands on a fresh connection to `host`.
    pub(super) async fn connect(&self, host: &Host, stream: TcpStream) -> Result<TlsStream<TcpStream>, SetupError> {
        let name = self.server_name.as_ref().unwrap_or(&host.name);
        let server_name = ServerName::try_from(name.clone())
            .map_err(|_| SetupError::Refused(format!("\"{name}\" is no name that a certificate can have")))?;
        self.connector.connect(server_name, stream).await.map_err(|error| explain(host, name, &error))
    }
}

fn authorities(files: &TlsFiles) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    if let Some(path) = &files.authorities {
        let unreadable =
            |error: &dyn fmt::Display| format!("tls-ca-cert-file {} cannot be read: {error}", path.display());
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable(&error))?;
        for certificate in certificates {
            store.add(certificate).map_err(|error| unreadable(&error))?;
        }
        if store.is_empty() {
            return Err(unreadable(&"it has no certificate"));
        }
    } else {
        // One that cannot be read is no reason to do without the others.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            return Err("this system has no certificates of authorities; name a file with tls-ca-cert-file".to_owned());
        }
    }
    Ok(store)
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

/// Believes whatever certificate a server has, but not that it has its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
