//! Certificates for a server that speaks TLS.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The PEM files with certificates and keys of an authority, of a server on 127.0.0.1 and localhost, and of a client.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority's certificate, which signed the others.
    pub ca: PathBuf,
    /// The server's certificate.
    pub cert: PathBuf,
    /// The server's key.
    pub key: PathBuf,
    /// A client's certificate.
    pub client_cert: PathBuf,
    /// A client's key.
    pub client_key: PathBuf,
}

impl TlsFiles {
    /// Makes the files in `dir` with `openssl`.
    ///
    /// # Panics
    ///
    /// If there is no `openssl` or it fails.
    #[must_use]
    pub fn make(dir: &Path) -> Self {
        let file = |name: &str| dir.join(name);
        let (ca, ca_key) = (file("ca.crt"), file("ca.key"));
        let authority = ["-subj", "/CN=test authority", "-addext", "basicConstraints=critical,CA:TRUE"];
        openssl(dir, &ca, &ca_key, &authority);
        let files = Self {
            cert: file("server.crt"),
            key: file("server.key"),
            client_cert: file("client.crt"),
            client_key: file("client.key"),
            ca: ca.clone(),
        };
        for (cert, key, name) in
            [(&files.cert, &files.key, "localhost"), (&files.client_cert, &files.client_key, "client")]
        {
            let subject = format!("/CN={name}");
            let (ca, ca_key) = (ca.to_string_lossy(), ca_key.to_string_lossy());
            let names = ["-subj", &subject, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
            let signer = ["-CA", &ca, "-CAkey", &ca_key, "-addext", "basicConstraints=critical,CA:FALSE"];
            openssl(dir, cert, key, &[names.as_slice(), signer.as_slice()].concat());
        }
        files
    }

    /// What an address of a bucket has to say after `?` for a client to trust the server and to show a certificate itself.
    #[must_use]
    pub fn bucket_options(&self) -> String {
        format!(
            "ca-certs={}&ssl-cert={}&ssl-key={}",
            self.ca.display(),
            self.client_cert.display(),
            self.client_key.display()
        )
    }

    pub(super) fn server_args(&self) -> Vec<String> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut args = Vec::new();
        for (option, value) in [
            ("--tls-cert-file", path(&self.cert)),
            ("--tls-key-file", path(&self.key)),
            ("--tls-ca-cert-file", path(&self.ca)),
            ("--tls-auth-clients", "optional".to_owned()),
        ] {
            args.extend([option.to_owned(), value]);
        }
        args
    }

    /// What a URL has to say after `?` for a client to trust the server and to show a certificate itself.
    #[must_use]
    pub fn url_options(&self) -> String {
        format!(
            "tls-ca-cert-file={}&tls-cert-file={}&tls-key-file={}",
            self.ca.display(),
            self.client_cert.display(),
            self.client_key.display()
        )
    }
}

fn openssl(dir: &Path, cert: &Path, key: &Path, more: &[&str]) {
    // Without a configuration of its own, openssl would add the extensions of the machine's.
    let config = dir.join("openssl.cnf");
    fs::write(&config, "[req]\ndistinguished_name = dn\n[dn]\n").expect("write openssl's configuration");
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2"])
        .arg("-config")
        .arg(&config)
        .arg("-out")
        .arg(cert)
        .arg("-keyout")
        .arg(key)
        .args(more)
        .output()
        .unwrap_or_else(|e| panic!("cannot run openssl, which tests with TLS need: {e}"));
    assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
}
