//! The setting that `format` and `config` make (cli.md §4.1, §4.2, §5.1, §5.2).

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use anyhow::{Context, Result, bail};
use juicefs_core::{
    Format,
    format::{META_VERSION, Tier},
};

use super::{Surroundings, Warned};
use crate::config::{
    args::{FormatArgs, ManagementArgs},
    values::bytes_text,
};

pub(crate) mod change;

/// Oldest client that may open a volume without newer features.
const BASE_CLIENT: &str = "1.1.0-A";
/// Oldest client that keeps ACLs.
pub(crate) const ACL_CLIENT: &str = "1.2.0-A";
/// Why ACLs stay on.
pub(crate) const CANNOT_DISABLE_ACL: &str = "cannot disable acl: rules may be in force that would be lost";
const LEAST_BLOCK: u64 = 64 << 10;
const LARGEST_BLOCK: u64 = 16 << 20;
const MOST_SHARDS: u32 = 256;
/// The size of a file that is too long for a private key.
const LARGEST_KEY: u64 = 1 << 20;

/// The setting of a new volume.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn new_format(args: &FormatArgs, here: &Surroundings) -> Result<Warned<Format>> {
    let mut warnings = Vec::new();
    check(args)?;
    let storage = storage_kind(args.storage.storage.as_deref().unwrap_or("file"))?;
    let secret = |flag: &Option<String>, name: &str| {
        let given = flag.clone().filter(|value| !value.is_empty());
        given.or_else(|| here.var(name).map(str::to_owned)).unwrap_or_default()
    };
    let bucket = match &args.storage.bucket {
        Some(bucket) => bucket.clone(),
        None if matches!(storage.as_str(), "file" | "mem") => {
            here.place("/var/jfs", "local").to_string_lossy().into_owned()
        }
        None => bail!("--bucket is missing: it says where the volume is in storage {storage}"),
    };
    let class = args.storage.storage_class.clone().unwrap_or_default();
    let tier = Tier { id: 0, storage_class: class.clone(), tag: args.storage.tag.clone().unwrap_or_default() };
    let enable_acl = args.management.enable_acl == Some(true);
    let format = Format {
        name: args.name.clone(),
        uuid: uuid::Uuid::new_v4().to_string(),
        bucket: stored_bucket(&storage, &bucket, here)?,
        storage,
        storage_class: class,
        tiers: Some(BTreeMap::from([("0".to_owned(), tier)])),
        access_key: secret(&args.storage.access_key, "ACCESS_KEY"),
        secret_key: secret(&args.storage.secret_key, "SECRET_KEY"),
        session_token: secret(&args.storage.session_token, "SESSION_TOKEN"),
        block_size: args.block_size.map_or(4096, |size| block_size(size, &mut warnings)),
        compression: args.compress.as_ref().map_or_else(|| "none".to_owned(), |name| name.to_ascii_lowercase()),
        shards: args.shards.unwrap_or(0),
        hash_prefix: args.hash_prefix.unwrap_or(false),
        capacity: args.management.capacity.unwrap_or(0),
        inodes: args.management.inodes.unwrap_or(0),
        encrypt_key: args.encrypt_rsa_key.as_deref().map(|path| read_key(path, here)).transpose()?.unwrap_or_default(),
        encrypt_algo: args.encrypt_algo.clone().unwrap_or_else(|| "aes256gcm-rsa".to_owned()),
        trash_days: args.management.trash_days.unwrap_or(1),
        meta_version: META_VERSION,
        min_client_version: if enable_acl { ACL_CLIENT } else { BASE_CLIENT }.to_owned(),
        dir_stats: true,
        enable_acl,
        ..Format::default()
    };
    Ok(Warned { value: format, warnings })
}

/// The setting of an existing volume, changed by what was given.
///
/// # Errors
/// A sentence for the user. Whether the fields may change is checked where the setting is stored.
pub(crate) fn changed_format(old: &Format, args: &FormatArgs, here: &Surroundings) -> Result<Warned<Format>> {
    let mut warnings = Vec::new();
    check(args)?;
    let mut format = Format { name: args.name.clone(), ..old.clone() };
    let set = |field: &mut String, value: &Option<String>| {
        if let Some(value) = value {
            field.clone_from(value);
        }
    };
    set(&mut format.access_key, &args.storage.access_key);
    set(&mut format.secret_key, &args.storage.secret_key);
    set(&mut format.session_token, &args.storage.session_token);
    if let Some(storage) = &args.storage.storage {
        format.storage = storage_kind(storage)?;
    }
    if let Some(bucket) = &args.storage.bucket {
        format.bucket = stored_bucket(&format.storage, bucket, here)?;
    }
    if let Some(name) = &args.compress {
        format.compression = name.to_ascii_lowercase();
    }
    for (given, flag) in
        [(args.encrypt_rsa_key.is_some(), "--encrypt-rsa-key"), (args.encrypt_algo.is_some(), "--encrypt-algo")]
    {
        if given {
            warnings.push(format!("{flag} is ignored: the encryption of a volume cannot change"));
        }
    }
    format.block_size = args.block_size.map_or(format.block_size, |size| block_size(size, &mut warnings));
    format.shards = args.shards.unwrap_or(format.shards);
    format.hash_prefix = args.hash_prefix.unwrap_or(format.hash_prefix);
    format.capacity = args.management.capacity.unwrap_or(format.capacity);
    format.inodes = args.management.inodes.unwrap_or(format.inodes);
    format.trash_days = args.management.trash_days.unwrap_or(format.trash_days);
    match args.management.enable_acl {
        Some(true) if !format.enable_acl => {
            format.enable_acl = true;
            if change::is_older(&format.min_client_version, ACL_CLIENT) {
                ACL_CLIENT.clone_into(&mut format.min_client_version);
            }
        }
        Some(false) if format.enable_acl => bail!(CANNOT_DISABLE_ACL),
        _ => {}
    }
    Ok(Warned { value: format, warnings })
}

/// Checks what can be checked of the flags of `format` without knowing the volume.
fn check(args: &FormatArgs) -> Result<()> {
    check_name(&args.name)?;
    if let Some(name) = &args.compress
        && !matches!(name.to_ascii_lowercase().as_str(), "" | "none" | "lz4" | "zstd")
    {
        bail!("unsupported compress algorithm {name:?}: choose none, lz4 or zstd");
    }
    if let Some(shards) = args.shards.filter(|shards| *shards > MOST_SHARDS) {
        bail!("too many shards: {shards}, the most is {MOST_SHARDS}");
    }
    if let Some(name) = &args.encrypt_algo
        && !matches!(name.as_str(), "aes256gcm-rsa" | "chacha20-rsa" | "sm4gcm")
    {
        bail!("unsupported encrypt algorithm {name:?}: choose aes256gcm-rsa, chacha20-rsa or sm4gcm");
    }
    refuse_unbuilt(&args.management)
}

/// The text of a PEM file. Whoever uses it checks whether there is a key in it.
fn read_key(path: &Path, here: &Surroundings) -> Result<String> {
    let mut text = String::new();
    let read = File::open(here.absolute(path)).and_then(|file| file.take(LARGEST_KEY).read_to_string(&mut text));
    read.with_context(|| format!("--encrypt-rsa-key {}: cannot read it", path.display()))?;
    Ok(text)
}

/// Refuses features that a client would have to serve once the setting names them.
fn refuse_unbuilt(args: &ManagementArgs) -> Result<()> {
    let unbuilt = [
        (args.ranger_rest_url.is_some(), "--ranger-rest-url"),
        (args.ranger_service.is_some(), "--ranger-service"),
        (args.kerberos_config_file.is_some(), "--kerberos-config-file"),
    ];
    match unbuilt.iter().find(|(given, _)| *given) {
        Some((_, flag)) => bail!("{flag} is not supported yet: leave it out"),
        None => Ok(()),
    }
}

fn check_name(name: &str) -> Result<()> {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let good = (3..=63).contains(&name.len())
        && name.as_bytes().iter().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !good {
        bail!(
            "invalid name {name:?}: only lower-case letters, digits and - are allowed, 3 to 63 of them, with no - at either end"
        );
    }
    Ok(())
}

/// The block size in KiB. It is rounded down to a power of two and brought into range.
fn block_size(bytes: u64, warnings: &mut Vec<String>) -> u32 {
    let rounded = if bytes == 0 { 0 } else { 1 << bytes.ilog2() };
    let size = rounded.clamp(LEAST_BLOCK, LARGEST_BLOCK);
    if size != bytes {
        warnings.push(format!("block size {} is not possible: using {}", bytes_text(bytes), bytes_text(size)));
    }
    // At most 16384, by the clamp.
    (size >> 10) as u32
}

/// The name of a kind of object storage as it is stored, if this version can use it.
pub(crate) fn storage_kind(name: &str) -> Result<String> {
    juicefs_chunk::storage_name(name).map(str::to_owned).map_err(anyhow::Error::msg)
}

/// The bucket as it is stored. A local directory is stored absolute and with a slash at its end.
pub(crate) fn stored_bucket(storage: &str, bucket: &str, here: &Surroundings) -> Result<String> {
    if storage != "file" {
        return Ok(bucket.to_owned());
    }
    let path = bucket.strip_prefix("file://").unwrap_or(bucket);
    let absolute = here.absolute(path.as_ref());
    let text = absolute.to_str().with_context(|| format!("the path {absolute:?} is not UTF-8"))?;
    Ok(if text.ends_with('/') { text.to_owned() } else { format!("{text}/") })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::{
        argv,
        config::args::{Cli, Command},
    };

    fn args(line: &str) -> FormatArgs {
        let mut app = Cli::command();
        app.build();
        let words = format!("juicefs format sqlite3://m.db {line}").split_whitespace().map(Into::into).collect();
        match Cli::try_parse_from(argv::normalise(&app, words).expect("a good line")).expect("parsed").command {
            Command::Format(args) => *args,
            other => panic!("not format: {other:?}"),
        }
    }

    fn new(line: &str) -> Format {
        new_format(&args(line), &Surroundings::of_tests()).expect("good flags").value
    }

    fn refused(line: &str) -> String {
        let text = new_format(&args(line), &Surroundings::of_tests()).expect_err("refused").to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    }

    #[test]
    fn defaults_are_stored_as_the_other_client_stores_them() {
        let format = Format { uuid: "U".into(), ..new("vol --bucket data") };
        assert_eq!(
            format.to_json().expect("writable"),
            "{\n\"Name\": \"vol\",\n\"UUID\": \"U\",\n\"Storage\": \"file\",\n\"Tiers\": {\n\"0\": {\n\"ID\": 0,\n\
             \"StorageClass\": \"\",\n\"Tag\": \"\"\n}\n},\n\"Bucket\": \"/srv/data/\",\n\"BlockSize\": 4096,\n\
             \"Compression\": \"none\",\n\"EncryptAlgo\": \"aes256gcm-rsa\",\n\"TrashDays\": 1,\n\"MetaVersion\": 1,\n\
             \"MinClientVersion\": \"1.1.0-A\",\n\"DirStats\": true,\n\"EnableACL\": false\n}"
        );
        assert_eq!(new("vol").bucket, "/var/jfs/");
    }

    #[test]
    fn names() {
        for good in ["abc", "a-1", "0ab", &"x".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["ab", "Vol", "-ab", "ab-", "a_b", "a.b", &"x".repeat(64), "äöü"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn block_sizes_are_brought_into_range() {
        let cases = [("4M", 4096), ("64", 64), ("1", 64), ("100K", 64), ("3M", 2048), ("1G", 16384), ("0", 64)];
        for (given, kib) in cases {
            assert_eq!(new(&format!("vol --block-size {given}")).block_size, kib, "{given}");
        }
        let warned = new_format(&args("vol --block-size 3M"), &Surroundings::of_tests()).expect("good flags");
        assert_eq!(warned.warnings, ["block size 3.0 MiB is not possible: using 2.0 MiB"]);
    }

    #[test]
    fn acls_need_clients_that_keep_them() {
        let format = new("vol --enable-acl");
        assert_eq!((format.enable_acl, &format.min_client_version[..]), (true, ACL_CLIENT));
        let again = |line: &str, old: &Format| {
            changed_format(old, &args(line), &Surroundings::of_tests()).map(|warned| warned.value)
        };
        let plain = new("vol");
        assert_eq!(again("vol", &plain).expect("nothing given").min_client_version, BASE_CLIENT);
        let on = again("vol --enable-acl", &plain).expect("turned on");
        assert_eq!((on.enable_acl, &on.min_client_version[..]), (true, ACL_CLIENT));
        let later = Format { min_client_version: "1.3.0".into(), ..plain };
        assert_eq!(again("vol --enable-acl", &later).expect("turned on").min_client_version, "1.3.0");
        assert!(again("vol", &on).expect("nothing given").enable_acl);
        assert_eq!(again("vol --enable-acl=false", &on).expect_err("refused").to_string(), CANNOT_DISABLE_ACL);
    }

    #[test]
    fn bad_values_are_named() {
        assert!(refused("vol --compress gzip").contains("\"gzip\""));
        assert!(refused("vol --shards 257").contains("257"));
        assert!(refused("vol --storage ceph --bucket b").contains("\"ceph\" is not supported"));
        assert!(refused("vol --storage s5 --bucket b").contains("\"s5\" is not known; supported are: file"));
        assert!(refused("vol --storage s3").contains("--bucket"));
        assert!(refused("vol --encrypt-rsa-key /no/such/k").contains("--encrypt-rsa-key /no/such/k"));
        assert!(refused("vol --encrypt-rsa-key /").contains("--encrypt-rsa-key /"));
        assert!(refused("vol --encrypt-algo rot13").contains("rot13"));
        assert!(refused("vol --ranger-service s").contains("--ranger-service"));
        assert!(refused("V").contains("\"V\""));
    }

    #[test]
    fn keys_come_from_the_environment_when_no_flag_has_them() {
        let mut here = Surroundings::of_tests();
        here.vars.insert("ACCESS_KEY".into(), "from-env".into());
        here.vars.insert("SECRET_KEY".into(), "from-env".into());
        let format = new_format(&args("vol --access-key given"), &here).expect("good flags").value;
        assert_eq!((format.access_key.as_str(), format.secret_key.as_str()), ("given", "from-env"));
    }

    #[test]
    fn a_key_is_stored_as_it_is_in_its_file_and_never_changes() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, "the PEM\n").expect("written");
        let line = format!("vol --encrypt-algo chacha20-rsa --encrypt-rsa-key {}", file.path().display());
        let format = new(&line);
        assert_eq!((format.encrypt_key.as_str(), format.encrypt_algo.as_str()), ("the PEM\n", "chacha20-rsa"));
        let old = new("vol");
        let changed = changed_format(&old, &args(&line), &Surroundings::of_tests()).expect("good flags");
        assert_eq!(changed.value, old);
        assert_eq!(changed.warnings.len(), 2, "{:?}", changed.warnings);
        std::fs::write(&file, [0xff, 0xfe]).expect("written");
        assert!(refused(&line).contains("--encrypt-rsa-key"));
    }

    #[test]
    fn an_existing_volume_keeps_what_is_not_given() {
        let old = Format { capacity: 5, inodes: 6, trash_days: 7, ..new("vol --compress lz4 --block-size 1M") };
        let here = Surroundings::of_tests();
        assert_eq!(changed_format(&old, &args("vol"), &here).expect("good flags").value, old);
        let changed = changed_format(&old, &args("vol --capacity 1 --trash-days 0 --bucket /x"), &here).expect("good");
        let wanted = Format { capacity: 1 << 30, trash_days: 0, bucket: "/x/".into(), ..old };
        assert_eq!(changed.value, wanted);
    }
}
