//! Answers of an S3 server that say no are read here, and sorted by what the caller must do.

use http::response::Parts;
use juicefs_core::StorageError;
use opendal::ErrorKind;
use serde::Deserialize;
use thiserror::Error;

/// What a server answered instead of doing what it was asked.
#[derive(Clone, Debug, Error)]
#[error("{status}{}{code}: {message}", if code.is_empty() { "" } else { " " })]
pub(in crate::object) struct Refusal {
    pub(in crate::object) status: u16,
    /// The protocol's word for the refusal, empty when the answer had none (an answer to HEAD never has).
    pub(in crate::object) code: String,
    message: String,
    /// Where the bucket is, if the answer says so.
    region: Option<String>,
}

/// Kinds of refusals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::object) enum Outcome {
    /// There is no such object.
    NoObject,
    /// There is no such bucket.
    NoBucket,
    /// The bucket is there already.
    BucketExists,
    /// The range begins behind the end.
    Range,
    /// The access key is not known.
    UnknownKey,
    /// The signature is not that of the secret key.
    WrongSecret,
    /// The session token is of no use.
    Token,
    /// The clocks differ.
    Clock,
    /// The bucket is elsewhere.
    Elsewhere,
    /// The store is full.
    Full,
    /// Another try may do.
    Later,
    /// Whoever asks has no right to.
    Denied,
    /// The refusal is final for another reason.
    Refused,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Body {
    code: String,
    message: String,
    region: Option<String>,
}

impl Refusal {
    /// Reads an answer. A body in another form is kept as the message, up to its first line.
    pub(super) fn read(parts: &Parts, body: &[u8]) -> Self {
        let status = parts.status.as_u16();
        let text = String::from_utf8_lossy(body);
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (code, message, region) = match quick_xml::de::from_str::<Body>(&text) {
            Ok(body) if !body.code.is_empty() => (body.code, body.message, body.region),
            _ => (String::new(), text.trim().lines().next().unwrap_or_default().chars().take(200).collect(), None),
        };
        let message = if message.is_empty() {
            parts.status.canonical_reason().unwrap_or("no reason given").to_owned()
        } else {
            message
        };
        Self { status, code, message, region: header("x-amz-bucket-region").or(region) }
    }

    /// Tells what kind of refusal it is.
    pub(in crate::object) fn outcome(&self) -> Outcome {
        match self.code.as_str() {
            "NoSuchBucket" => Outcome::NoBucket,
            "NoSuchKey" => Outcome::NoObject,
            "BucketAlreadyExists" | "BucketAlreadyOwnedByYou" => Outcome::BucketExists,
            "InvalidRange" => Outcome::Range,
            "InvalidAccessKeyId" | "NotSignedUp" => Outcome::UnknownKey,
            "SignatureDoesNotMatch" => Outcome::WrongSecret,
            "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" | "RequestExpired" => Outcome::Token,
            "RequestTimeTooSkewed" => Outcome::Clock,
            "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
                Outcome::Elsewhere
            }
            "QuotaExceeded"
            | "InsufficientStorage"
            | "InsufficientCapacity"
            | "XMinioStorageFull"
            | "XMinioAdminBucketQuotaExceeded" => Outcome::Full,
            "RequestTimeout" | "InternalError" | "OperationAborted" | "SlowDown" | "ServiceUnavailable"
            | "TemporaryRedirect" | "BadDigest" | "IncompleteBody" => Outcome::Later,
            _ => match self.status {
                301 | 308 => Outcome::Elsewhere,
                404 => Outcome::NoObject,
                416 => Outcome::Range,
                401 | 403 => Outcome::Denied,
                507 => Outcome::Full,
                501 => Outcome::Refused,
                302 | 307 | 408 | 409 | 425 | 429 | 499 | 500.. => Outcome::Later,
                _ => Outcome::Refused,
            },
        }
    }

    /// Makes the error for the data path, with a sentence for people. `key` names what was asked for, and `place` the bucket.
    pub(in crate::object) fn error(&self, key: &str, place: &str) -> StorageError {
        match self.outcome() {
            Outcome::NoObject => StorageError::NotFound(key.to_owned()),
            Outcome::NoBucket => StorageError::Permanent(format!("bucket {place} does not exist")),
            Outcome::UnknownKey => {
                StorageError::Keys(format!("{place} does not know the access key ({self}); check --access-key"))
            }
            Outcome::WrongSecret => StorageError::Keys(format!(
                "the secret key is not the one that {place} has for the access key; check --secret-key"
            )),
            Outcome::Token => StorageError::Keys(format!(
                "the session token for {place} has expired or is not valid ({self}); set a new one with --session-token"
            )),
            Outcome::Clock => StorageError::Permanent(format!(
                "the clock of this machine differs too much from that of {place}; set it right"
            )),
            Outcome::Elsewhere => {
                let region = self.region.as_ref().map(|region| format!(": it is in {region}")).unwrap_or_default();
                StorageError::Permanent(format!(
                    "bucket {place} is not in the region that was asked{region}; name its region in --bucket or \
                     AWS_REGION ({self})"
                ))
            }
            Outcome::Full => StorageError::NoSpace(format!("{place} ({self})")),
            Outcome::Later => StorageError::Transient(format!("{place} has trouble with {key} ({self})")),
            Outcome::Denied => StorageError::Permanent(format!("access to {key} in {place} is denied ({self})")),
            Outcome::Range | Outcome::BucketExists | Outcome::Refused => {
                StorageError::Permanent(format!("{key} in {place} ({self})"))
            }
        }
    }
}

impl From<Refusal> for opendal::Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.outcome() {
            Outcome::NoObject => ErrorKind::NotFound,
            Outcome::Denied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Unexpected,
        };
        Self::new(kind, refusal.to_string()).set_source(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> Refusal {
        let (parts, ()) = http::Response::builder().status(status).body(()).expect("an answer").into_parts();
        Refusal::read(&parts, body.as_bytes())
    }

    fn coded(status: u16, code: &str) -> Refusal {
        refusal(
            status,
            &format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message><HostId>h</HostId></Error>"),
        )
    }

    #[test]
    fn refusals_are_sorted_by_what_the_caller_must_do() {
        use StorageError::{Keys, NoSpace, NotFound, Permanent, Transient};
        let error = |refusal: Refusal| refusal.error("k", "s3://b/");
        for (status, code) in [(404, "NoSuchKey"), (404, "")] {
            assert!(matches!(error(coded(status, code)), NotFound(_)), "{status} {code}");
        }
        for (status, code) in
            [(507, ""), (403, "QuotaExceeded"), (503, "InsufficientCapacity"), (507, "XMinioStorageFull")]
        {
            assert!(matches!(error(coded(status, code)), NoSpace(_)), "{status} {code}");
        }
        let later = [(503, "SlowDown"), (500, ""), (502, ""), (429, ""), (400, "RequestTimeout"), (409, ""), (307, "")];
        for (status, code) in later {
            assert!(matches!(error(coded(status, code)), Transient(_)), "{status} {code}");
        }
        let keys = [
            (403, "InvalidAccessKeyId", "--access-key"),
            (403, "SignatureDoesNotMatch", "--secret-key"),
            (400, "ExpiredToken", "session token"),
        ];
        for (status, code, word) in keys {
            let error = error(coded(status, code));
            assert!(matches!(&error, Keys(text) if text.contains(word)), "{status} {code}: {error}");
        }
        let never = [
            (404, "NoSuchBucket", "does not exist"),
            (403, "RequestTimeTooSkewed", "clock"),
            (301, "PermanentRedirect", "region"),
            (403, "AccessDenied", "denied"),
            (403, "", "denied"),
            (400, "InvalidStorageClass", "InvalidStorageClass"),
            (501, "NotImplemented", "NotImplemented"),
            (416, "InvalidRange", "InvalidRange"),
        ];
        for (status, code, word) in never {
            let error = error(coded(status, code));
            assert!(matches!(&error, Permanent(text) if text.contains(word)), "{status} {code}: {error}");
        }
    }

    #[test]
    fn answers_in_another_form_are_quoted_in_short() {
        let text = refusal(502, "<html>\n<body>Bad").error("k", "s3://b/").to_string();
        assert_eq!(text, "object store: s3://b/ has trouble with k (502: <html>)");
        assert_eq!(refusal(403, "").message, "Forbidden");
    }
}
