//! TLS to an object store.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

/// What the options of a bucket's address say about TLS.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(in crate::object) struct TlsOptions {
    /// `tls-insecure-skip-verify`: believe every certificate.
    pub(in crate::object) skip_verify: bool,
    /// `ca-certs`: a file with the authorities that are believed instead of those of the system, which `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` may name.
    pub(in crate::object) authorities: Option<PathBuf>,
    /// `ssl-cert` and `ssl-key`: who this client is.
    pub(in crate::object) client: Option<(PathBuf, PathBuf)>,
}

impl TlsOptions {
    /// Reads the files.
    ///
    /// # Errors
    /// One sentence about the file.
    pub(in crate::object) fn config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be used: {error}"))?;
        let builder = if self.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let Some((certificate, key)) = &self.client else { return Ok(builder.with_no_client_auth()) };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("ssl-cert {} cannot be read: {error}", certificate.display()))?;
        let private = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| format!("ssl-key {} cannot be read: {error}", key.display()))?;
        builder.with_client_auth_cert(chain, private).map_err(|error| {
            format!("ssl-cert {} and ssl-key {} do not fit: {error}", certificate.display(), key.display())
        })
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut store = RootCertStore::empty();
        let Some(path) = &self.authorities else {
            // One that cannot be read is no reason to do without the others; with none at all there is still plain HTTP.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(store);
        };
        let unreadable = |error: &dyn std::fmt::Display| format!("ca-certs {} cannot be read: {error}", path.display());
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable(&error))?;
        for certificate in certificates {
            store.add(certificate).map_err(|error| unreadable(&error))?;
        }
        if store.is_empty() { Err(unreadable(&"it has no certificate")) } else { Ok(store) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_cannot_be_used_are_named() {
        assert!(TlsOptions::default().config().is_ok());
        let dir = tempfile::tempdir().expect("a directory");
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "").expect("a file");
        let options = TlsOptions { authorities: Some(empty), ..TlsOptions::default() };
        let text = options.config().expect_err("no certificate");
        assert!(text.contains("ca-certs") && text.contains("empty.pem"), "{text}");
        let missing = dir.path().join("none.pem");
        let options = TlsOptions { client: Some((missing.clone(), missing)), ..TlsOptions::default() };
        let text = options.config().expect_err("no file");
        assert!(text.contains("ssl-cert") && text.contains("none.pem"), "{text}");
    }
}
