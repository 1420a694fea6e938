//! Requests are signed with these keys, which tell the server who makes them.

use juicefs_core::Format;
use opendal::HttpTransporter;
use percent_encoding::percent_decode_str;
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, StaticCredentialProvider};
use reqsign_core::{Context, OsEnv, ProvideCredentialChain};
use reqsign_file_read_tokio::TokioFileRead;

use super::vendors;
use crate::object::opening::Variables;

/// This access key means that there is none.
const ANONYMOUS: &str = "anonymous";

/// The keys that requests are signed with.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Keys {
    /// There are no keys, and requests are not signed: the bucket serves everybody.
    Anonymous,
    /// The keys come from the volume or from the environment.
    Given { access: String, secret: String, token: String },
    /// The AWS chain looks for keys at the first request: environment, profile, web identity, container, instance.
    Found,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Given { .. } => "Given",
            Self::Found => "Found",
        })
    }
}

impl Keys {
    /// Returns the keys of the volume, else those of the storage's own variables, else those that AWS' tools would find.
    ///
    /// # Errors
    /// A sentence for the user when a storage that is not AWS-like has no keys.
    pub(super) fn of(storage: &str, format: &Format, variables: &Variables<'_>) -> Result<Self, String> {
        if format.access_key == ANONYMOUS {
            return Ok(Self::Anonymous);
        }
        let (access, secret, token) = (&format.access_key, &format.secret_key, &format.session_token);
        if !access.is_empty() {
            let plain = |key: &str| match storage {
                "ks3" => percent_decode_str(key).decode_utf8_lossy().into_owned(),
                _ => key.to_owned(),
            };
            return Ok(Self::Given { access: plain(access), secret: plain(secret), token: token.clone() });
        }
        let names = vendors::key_variables(storage);
        let variable = |name: &str| variables(name).unwrap_or_default();
        if let Some((access_name, secret_name, token_name)) = names
            && !variable(access_name).is_empty()
        {
            let token = token_name.map(variable).filter(|named| !named.is_empty()).unwrap_or_else(|| token.clone());
            return Ok(Self::Given { access: variable(access_name), secret: variable(secret_name), token });
        }
        if matches!(storage, "s3" | "minio") {
            return Ok(Self::Found);
        }
        let or = names.map(|(access, secret, _)| format!(", or {access} and {secret}")).unwrap_or_default();
        // What Google's own tools find is no key of the S3 interface.
        let kind = match storage {
            "gs" => "HMAC keys in this build (with the feature all-storage it takes what Google's tools find)",
            "ibmcos" => "HMAC keys",
            _ => "keys",
        };
        Err(format!("storage {storage} needs {kind}: give them with --access-key and --secret-key{or}"))
    }

    /// Returns the chain that provides keys to a signer.
    pub(super) fn chain(&self) -> ProvideCredentialChain<Credential> {
        match self {
            Self::Anonymous => ProvideCredentialChain::new(),
            Self::Given { access, secret, token } => {
                let fixed = StaticCredentialProvider::new(access, secret);
                let fixed = if token.is_empty() { fixed } else { fixed.with_session_token(token) };
                ProvideCredentialChain::new().push(fixed)
            }
            Self::Found => ProvideCredentialChain::new().push(DefaultCredentialProvider::builder().build()),
        }
    }
}

/// Makes what a signer needs to find keys, which may lie in files and in the environment or come from a service.
pub(super) fn signing_context(transport: &HttpTransporter) -> Context {
    Context::new().with_file_read(TokioFileRead).with_env(OsEnv).with_http_send(transport.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(storage: &str, format: &Format, variables: &[(&str, &str)]) -> Result<Keys, String> {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Keys::of(storage, format, &find)
    }

    fn given(access: &str, secret: &str, token: &str) -> Result<Keys, String> {
        Ok(Keys::Given { access: access.into(), secret: secret.into(), token: token.into() })
    }

    #[test]
    fn the_volume_comes_before_the_environment() {
        let format = Format {
            access_key: "a".into(),
            secret_key: "s%2F".into(),
            session_token: "t".into(),
            ..Format::default()
        };
        assert_eq!(keys("minio", &format, &[("MINIO_ACCESS_KEY", "other")]), given("a", "s%2F", "t"));
        assert_eq!(keys("ks3", &format, &[]), given("a", "s/", "t"));
        let none = Format::default();
        let minio = [("MINIO_ACCESS_KEY", "m"), ("MINIO_SECRET_KEY", "n")];
        assert_eq!(keys("minio", &none, &minio), given("m", "n", ""));
        assert_eq!(keys("s3", &none, &minio), Ok(Keys::Found));
        let oss = [("ALICLOUD_ACCESS_KEY_ID", "a"), ("ALICLOUD_ACCESS_KEY_SECRET", "b"), ("SECURITY_TOKEN", "c")];
        assert_eq!(keys("oss", &none, &oss), given("a", "b", "c"));
        let text = keys("oss", &none, &[]).expect_err("none");
        assert!(text.contains("ALICLOUD_ACCESS_KEY_ID"), "{text}");
        let text = keys("gs", &none, &[]).expect_err("none");
        assert!(text.contains("HMAC keys") && text.contains("all-storage") && !text.contains('\n'), "{text}");
        let nobody = Format { access_key: "anonymous".into(), ..none };
        assert_eq!(keys("s3", &nobody, &[]), Ok(Keys::Anonymous));
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", given("access", "secret", "token"));
        assert!(!shown.contains("secret") && !shown.contains("token"), "{shown}");
    }
}
