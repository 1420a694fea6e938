//! The setting of a volume (format: metadata.md §1). It is one JSON object, which `format` and `config` write and every
//! client reads.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::version::{CLIENT_VERSION, Version};

mod secrets;

use secrets::SecretCipher;

/// Highest metadata version that this client understands.
pub const META_VERSION: i64 = 1;
/// What stands in the place of a secret that a dump has removed, or that is not shown to people.
pub const REMOVED: &str = "removed";

/// One storage tier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tier {
    /// Number of the tier, equal to its key.
    #[serde(rename = "ID")]
    pub id: u8,
    /// Storage class of its objects.
    #[serde(rename = "StorageClass")]
    pub storage_class: String,
    /// Tag of its objects, `key=value`.
    #[serde(rename = "Tag")]
    pub tag: String,
}

/// The setting of a volume. Field order, names and omissions are those of the stored JSON; unknown keys are kept.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Format {
    /// Volume name, also the prefix of all object keys.
    pub name: String,
    /// Identity of the volume, and the key material of its secrets.
    #[serde(rename = "UUID")]
    pub uuid: String,
    /// Kind of the object storage.
    pub storage: String,
    /// Storage class of volumes without tiers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub storage_class: String,
    /// Tiers by decimal id. Absent in volumes made before 1.4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tiers: Option<BTreeMap<String, Tier>>,
    /// Bucket or endpoint; for `file` a directory ending in `/`.
    pub bucket: String,
    /// Access key, never encrypted.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub access_key: String,
    /// Secret key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret_key: String,
    /// Session token of temporary credentials.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session_token: String,
    /// Block size in KiB.
    pub block_size: u32,
    /// `none`, `lz4` or `zstd`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub compression: String,
    /// Number of buckets; sharded when above 1.
    #[serde(skip_serializing_if = "is_zero")]
    pub shards: u32,
    /// Block keys start with two hex digits.
    #[serde(skip_serializing_if = "is_false")]
    pub hash_prefix: bool,
    /// Limit of used space in bytes, 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub capacity: u64,
    /// Limit of inodes, 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub inodes: u64,
    /// PEM of the RSA key that wraps data keys.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub encrypt_key: String,
    /// Algorithm of data encryption.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub encrypt_algo: String,
    /// Whether the three secrets are stored encrypted.
    #[serde(skip_serializing_if = "is_false")]
    pub key_encrypted: bool,
    /// Upload limit of every client in Mbps, 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub upload_limit: i64,
    /// Download limit of every client in Mbps, 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub download_limit: i64,
    /// Days that removed files stay in the trash; 0 turns it off.
    pub trash_days: i64,
    /// Version of the metadata layout.
    #[serde(skip_serializing_if = "is_zero")]
    pub meta_version: i64,
    /// Oldest client that may open the volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub min_client_version: String,
    /// Newest client that may open the volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub max_client_version: String,
    /// Whether directory statistics and directory quotas are kept.
    #[serde(skip_serializing_if = "is_false")]
    pub dir_stats: bool,
    /// Whether use is counted per user and group.
    #[serde(skip_serializing_if = "is_false")]
    pub user_group_quota: bool,
    /// Whether POSIX ACLs are in force.
    #[serde(rename = "EnableACL")]
    pub enable_acl: bool,
    /// Ranger service address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ranger_rest_url: String,
    /// Ranger service name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ranger_service: String,
    /// Whether changes are logged.
    #[serde(skip_serializing_if = "is_false")]
    pub change_log: bool,
    /// Seconds that change-log lines are kept.
    #[serde(skip_serializing_if = "is_zero")]
    pub change_log_max_age: i64,
    /// Number of change-log lines kept.
    #[serde(skip_serializing_if = "is_zero")]
    pub change_log_max_lines: i64,
    /// Kerberos configuration.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kerb_conf: String,
    /// Keys that this client does not know.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}

/// Shows the stored JSON without anything secret, because debug output ends up in logs. Of unknown keys only the names
/// are shown.
impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.redacted();
        if let Some((scheme, rest)) = shown.bucket.split_once("://")
            && let Some((user, host)) = rest.rsplit_once('@')
        {
            let name = user.split(':').next().unwrap_or_default();
            shown.bucket = format!("{scheme}://{name}:{REMOVED}@{host}");
        }
        shown.unknown.values_mut().for_each(|value| *value = serde_json::Value::Null);
        f.write_str("Format ")?;
        f.write_str(&serde_json::to_string(&shown).map_err(|_| fmt::Error)?)
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Why a setting cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FormatError {
    /// The text is not the JSON of a setting.
    #[error("the volume setting is not valid: {0}")]
    Json(String),
    /// The volume has a newer layout.
    #[error("metadata version {0} is newer than the highest supported {META_VERSION}; use a newer client")]
    MetaVersion(i64),
    /// This client is outside the allowed range.
    #[error(
        "this client's version {CLIENT_VERSION} is {0} than the volume allows ({1}); use another version or change the limit with `juicefs config`"
    )]
    ClientVersion(&'static str, String),
    /// A secret was stripped by a dump.
    #[error("the secret was removed from the volume setting; set it again with `juicefs config`")]
    SecretRemoved,
    /// A secret does not decrypt.
    #[error("cannot decrypt the secrets of the volume setting: {0}")]
    Secret(&'static str),
}

impl Format {
    /// Bytes of a full block.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block_size as usize * 1024
    }

    /// Whether removed files go to the trash.
    #[must_use]
    pub fn has_trash(&self) -> bool {
        self.trash_days > 0
    }

    /// Parses the stored JSON.
    ///
    /// # Errors
    /// `Json` when it is none.
    pub fn from_json(text: &[u8]) -> Result<Self, FormatError> {
        serde_json::from_slice(text).map_err(|e| FormatError::Json(e.to_string()))
    }

    /// The JSON as it is stored, with a newline after every `{` and `,` and without leading blanks.
    ///
    /// # Errors
    /// `Json` when a value cannot be written, which happens for no setting.
    pub fn to_json(&self) -> Result<String, FormatError> {
        self.to_json_indented("")
    }

    /// The JSON with `indent` per level, for people.
    ///
    /// # Errors
    /// As [`Format::to_json`].
    pub fn to_json_indented(&self, indent: &str) -> Result<String, FormatError> {
        let mut out = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
        self.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))
            .map_err(|e| FormatError::Json(e.to_string()))?;
        String::from_utf8(out).map_err(|e| FormatError::Json(e.to_string()))
    }

    /// Whether this client may open the volume.
    ///
    /// # Errors
    /// `MetaVersion` or `ClientVersion`, each with the sentence for the user.
    pub fn check_version(&self) -> Result<(), FormatError> {
        if self.meta_version > META_VERSION {
            return Err(FormatError::MetaVersion(self.meta_version));
        }
        let ours = Version::parse(CLIENT_VERSION);
        let bound = |text: &str| if text.is_empty() { None } else { Version::parse(text) };
        if bound(&self.min_client_version).is_some_and(|min| ours.as_ref().is_some_and(|v| *v < min)) {
            return Err(FormatError::ClientVersion("older", format!("at least {}", self.min_client_version)));
        }
        if bound(&self.max_client_version).is_some_and(|max| ours.as_ref().is_some_and(|v| *v > max)) {
            return Err(FormatError::ClientVersion("newer", format!("at most {}", self.max_client_version)));
        }
        Ok(())
    }

    /// A copy that may be shown: `removed` stands in the place of each secret.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut copy = self.clone();
        for secret in copy.secrets_mut() {
            if !secret.is_empty() {
                REMOVED.clone_into(secret);
            }
        }
        copy
    }

    fn secrets_mut(&mut self) -> [&mut String; 3] {
        [&mut self.secret_key, &mut self.session_token, &mut self.encrypt_key]
    }

    /// Encrypts the secrets for storing, if there are any and they are not yet.
    ///
    /// # Errors
    /// `Secret` when the encryption fails, which does not happen.
    pub fn encrypt_secrets(&mut self) -> Result<(), FormatError> {
        if self.key_encrypted || self.secrets_mut().iter().all(|s| s.is_empty()) {
            return Ok(());
        }
        let cipher = self.secret_cipher()?;
        for secret in self.secrets_mut() {
            if !secret.is_empty() {
                *secret = cipher.seal(secret)?;
            }
        }
        self.key_encrypted = true;
        Ok(())
    }

    /// Decrypts the secrets after loading.
    ///
    /// # Errors
    /// `SecretRemoved` or `Secret`.
    pub fn decrypt_secrets(&mut self) -> Result<(), FormatError> {
        if !self.key_encrypted {
            return Ok(());
        }
        let cipher = self.secret_cipher()?;
        for secret in self.secrets_mut() {
            if secret == REMOVED {
                return Err(FormatError::SecretRemoved);
            }
            if !secret.is_empty() {
                *secret = cipher.open(secret)?;
            }
        }
        self.key_encrypted = false;
        Ok(())
    }

    fn secret_cipher(&self) -> Result<SecretCipher, FormatError> {
        SecretCipher::of_volume(&self.encrypt_algo, &self.uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: &str = "{\n\"Name\": \"vol\",\n\"UUID\": \"d65a340a-25f1-4924-8b72-4e010fc6616a\",\n\"Storage\": \"file\",\n\
        \"Tiers\": {\n\"0\": {\n\"ID\": 0,\n\"StorageClass\": \"\",\n\"Tag\": \"\"\n}\n},\n\"Bucket\": \"/b/\",\n\
        \"BlockSize\": 4096,\n\"Compression\": \"none\",\n\"TrashDays\": 0,\n\"MetaVersion\": 1,\n\
        \"MinClientVersion\": \"1.1.0-A\",\n\"DirStats\": true,\n\"EnableACL\": false,\n\"Later\": [\n1\n]\n}";

    #[test]
    fn json_is_kept_byte_for_byte_with_unknown_keys() {
        let format = Format::from_json(STORED.as_bytes()).expect("a stored setting");
        assert_eq!(format.to_json().expect("writable"), STORED);
        assert_eq!(format.check_version(), Ok(()));
    }

    #[test]
    fn clients_outside_the_range_are_refused() {
        let refuse = |format: Format| format.check_version().expect_err("refused").to_string();
        assert!(refuse(Format { meta_version: 2, ..Format::default() }).contains("newer"));
        assert!(refuse(Format { min_client_version: "9.0.0".into(), ..Format::default() }).contains("older"));
        assert!(refuse(Format { max_client_version: "1.0.0".into(), ..Format::default() }).contains("at most"));
    }

    #[test]
    fn secrets_come_back_and_are_not_shown() {
        let mut format = Format { uuid: "u".into(), secret_key: "s3cret".into(), ..Format::default() };
        format.encrypt_secrets().expect("sealed");
        assert!(format.key_encrypted && !format.secret_key.contains("s3cret"));
        assert_eq!(format.redacted().secret_key, REMOVED);
        assert_eq!(
            Format { uuid: "other".into(), ..format.clone() }.decrypt_secrets(),
            Err(FormatError::Secret("wrong UUID or damaged"))
        );
        format.decrypt_secrets().expect("opened");
        assert_eq!(format.secret_key, "s3cret");
    }
}
