//! TLS of clients, to metadata servers and object stores alike. It makes a configuration of rustls with aws-lc-rs of
//! the files that a user names. No provider is installed for the whole process.

mod anyone;

use std::{fmt, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use thiserror::Error;

use anyone::Anyone;

/// How a client checks a server, and who it says that it is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TlsFiles {
    /// Every certificate is accepted.
    pub skip_verify: bool,
    /// A file with the authorities that are trusted in place of those of the system, which `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` may name.
    pub authorities: Option<PathBuf>,
    /// Certificate of the client, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// The names of the options by which a user names the files.
#[derive(Clone, Copy, Debug)]
pub struct OptionNames {
    /// The file of authorities.
    pub authorities: &'static str,
    /// The client's certificate.
    pub certificate: &'static str,
    /// Its key.
    pub key: &'static str,
}

/// Why these files make no configuration. The sentences are for the user.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The library refuses the configuration.
    #[error("TLS cannot be used: {0}")]
    Unusable(rustls::Error),
    /// A file is missing or is not what it should be.
    #[error("{option} {} cannot be read: {why}", path.display())]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The certificate and the key of the client do not belong together.
    #[error("{files} do not fit: {why}")]
    Mismatch {
        /// Both files with their options.
        files: String,
        /// What the library says.
        why: rustls::Error,
    },
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// Without a file of authorities those of the system are taken. It is no error here if none can be read, because
    /// perhaps no server is asked for its certificate: see [`has_authorities`].
    ///
    /// # Errors
    /// With one sentence about the file, by the name of its option.
    pub fn config(&self, names: &OptionNames) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?;
        let builder = if self.skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        } else {
            builder.with_root_certificates(self.roots(names)?)
        };
        let Some((certificate, key)) = &self.client else { return Ok(builder.with_no_client_auth()) };
        let unreadable = |option, path: &PathBuf, why: &dyn fmt::Display| TlsError::File {
            option,
            path: path.clone(),
            why: why.to_string(),
        };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|why| unreadable(names.certificate, certificate, &why))?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|why| unreadable(names.key, key, &why))?;
        builder.with_client_auth_cert(chain, private).map_err(|why| TlsError::Mismatch {
            files: format!("{} {} and {} {}", names.certificate, certificate.display(), names.key, key.display()),
            why,
        })
    }

    fn roots(&self, names: &OptionNames) -> Result<RootCertStore, TlsError> {
        let Some(path) = &self.authorities else { return Ok(system_roots()) };
        let unreadable = |why: &dyn fmt::Display| TlsError::File {
            option: names.authorities,
            path: path.clone(),
            why: why.to_string(),
        };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|why| unreadable(&why))?;
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            store.add(certificate).map_err(|why| unreadable(&why))?;
        }
        if store.is_empty() { Err(unreadable(&"it has no certificate")) } else { Ok(store) }
    }

    /// Whether there is an authority to check a server by, or none is needed.
    #[must_use]
    pub fn has_authorities(&self) -> bool {
        self.skip_verify || self.authorities.is_some() || !system_roots().is_empty()
    }
}

/// The authorities of the system that can be read.
fn system_roots() -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    store
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: OptionNames = OptionNames { authorities: "ca-certs", certificate: "ssl-cert", key: "ssl-key" };

    #[test]
    fn files_that_cannot_be_used_are_named() {
        assert!(TlsFiles::default().config(&NAMES).is_ok());
        let dir = tempfile::tempdir().expect("a directory");
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "").expect("a file");
        let files = TlsFiles { authorities: Some(empty), ..TlsFiles::default() };
        let text = files.config(&NAMES).expect_err("no certificate").to_string();
        assert!(text.contains("ca-certs") && text.contains("empty.pem"), "{text}");
        let missing = dir.path().join("none.pem");
        let files = TlsFiles { client: Some((missing.clone(), missing)), ..TlsFiles::default() };
        let text = files.config(&NAMES).expect_err("no file").to_string();
        assert!(text.contains("ssl-cert") && text.contains("none.pem"), "{text}");
    }

    #[test]
    fn whoever_believes_all_needs_no_authority() {
        assert!(TlsFiles { skip_verify: true, ..TlsFiles::default() }.has_authorities());
        assert!(TlsFiles { authorities: Some("/a".into()), ..TlsFiles::default() }.has_authorities());
    }
}
