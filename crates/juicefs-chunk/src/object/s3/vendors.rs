//! Vendors whose storages have names of their own and an S3 interface: how their addresses say bucket, endpoint, region.

use super::address::{Address, DEFAULT_REGION, Place, path_style, region_variable};
use crate::object::Variables;

/// Where a vendor's addresses have what requests need.
struct Vendor {
    storage: &'static str,
    /// An address as it should be.
    form: &'static str,
    /// Which label of the host without the bucket names the region, and what stands before it there.
    region: Region,
    style: Style,
    /// End of the hosts that have their S3 interface at a sister's name, and how that one begins.
    sister: Option<(&'static str, &'static str)>,
}

enum Region {
    Label(usize, &'static str),
    Fixed(&'static str),
}

/// Where the bucket is in a request.
enum Style {
    Host,
    Path,
    /// As `JFS_S3_VHOST_STYLE` says.
    Chosen,
}

const fn vendor(storage: &'static str, form: &'static str, region: Region, style: Style) -> Vendor {
    Vendor { storage, form, region, style, sister: None }
}

const VENDORS: &[Vendor] = &[
    vendor("b2", "https://BUCKET.s3.REGION.backblazeb2.com", Region::Label(1, ""), Style::Host),
    Vendor {
        sister: Some((".bcebos.com", "s3.")),
        ..vendor("bos", "https://BUCKET.REGION.bcebos.com", Region::Label(0, ""), Style::Host)
    },
    vendor("cos", "https://BUCKET-APPID.cos.REGION.myqcloud.com", Region::Label(1, ""), Style::Host),
    vendor("eos", "https://BUCKET.ENDPOINT", Region::Fixed(DEFAULT_REGION), Style::Chosen),
    vendor(
        "ibmcos",
        "https://BUCKET.s3.REGION.cloud-object-storage.appdomain.cloud",
        Region::Label(1, ""),
        Style::Chosen,
    ),
    vendor("ks3", "https://BUCKET.ks3-REGION.ksyuncs.com", Region::Label(0, "ks3"), Style::Chosen),
    vendor("obs", "https://BUCKET.obs.REGION.myhuaweicloud.com", Region::Label(1, ""), Style::Host),
    vendor("oos", "https://BUCKET.oos-REGION.ctyunapi.cn", Region::Label(0, "oos-"), Style::Path),
    vendor("oss", "https://BUCKET.oss-REGION.aliyuncs.com", Region::Label(0, ""), Style::Host),
    Vendor {
        sister: Some((".qingstor.com", "s3.")),
        ..vendor("qingstor", "https://BUCKET.REGION.qingstor.com", Region::Label(0, ""), Style::Host)
    },
    vendor("qiniu", "https://BUCKET.s3-REGION.qiniucs.com", Region::Label(0, "s3-"), Style::Path),
    vendor("scw", "https://BUCKET.s3.REGION.scw.cloud", Region::Label(1, ""), Style::Host),
    vendor("space", "https://BUCKET.REGION.digitaloceanspaces.com", Region::Label(0, ""), Style::Host),
    Vendor {
        sister: Some((".volces.com", "tos-s3-")),
        ..vendor("tos", "https://BUCKET.tos-REGION.volces.com", Region::Label(0, "tos-"), Style::Host)
    },
    vendor("wasabi", "https://BUCKET.s3.REGION.wasabisys.com", Region::Label(1, ""), Style::Host),
];

/// Region names of KS3 by what stands in its addresses.
const KS3_REGIONS: &[(&str, &str)] = &[
    ("cn-beijing", "BEIJING"),
    ("cn-shanghai", "SHANGHAI"),
    ("cn-guangzhou", "GUANGZHOU"),
    ("cn-qingdao", "QINGDAO"),
    ("jr-beijing", "JR_BEIJING"),
    ("jr-shanghai", "JR_SHANGHAI"),
    ("", "HANGZHOU"),
    ("cn-hk-1", "HONGKONG"),
    ("rus", "RUSSIA"),
    ("sgp", "SINGAPORE"),
];

/// The place that a vendor's address means.
///
/// # Errors
/// A sentence for the user.
pub(super) fn place(address: &Address, variables: &Variables<'_>) -> Result<Place, String> {
    let (storage, given) = (address.storage, &address.given);
    let vendor = VENDORS
        .iter()
        .find(|vendor| vendor.storage == storage)
        .ok_or_else(|| format!("object storage \"{storage}\" has no S3 interface"))?;
    let bad = || format!("bucket \"{given}\" of storage {storage} is not valid: it should be like {}", vendor.form);
    let (bucket, host) = address.split_host().ok_or_else(bad)?;
    let labels: Vec<&str> = host.split(['.', ':']).collect();
    let region = match vendor.region {
        Region::Fixed(region) => region,
        Region::Label(at, before) => {
            let label = labels.get(at).copied().ok_or_else(bad)?;
            label.strip_prefix(before).unwrap_or(label)
        }
    };
    let region = particular_region(storage, region, host, variables);
    let path = match vendor.style {
        Style::Host => false,
        // The newer endpoints of OOS have the bucket in the host.
        Style::Path => !host.ends_with("xstore.ctyun.cn"),
        Style::Chosen => path_style(variables) && !is_ksyun(host),
    };
    let host = match vendor.sister {
        Some((end, begin)) if host.ends_with(end) && !host.starts_with(begin) => {
            let plain = host.strip_prefix("tos-").unwrap_or(host);
            format!("{begin}{plain}")
        }
        _ => host.to_owned(),
    };
    Ok(address.place(&host, bucket, &region, path))
}

/// The name of a region where it is not just what the address has.
fn particular_region(storage: &str, region: &str, host: &str, variables: &Variables<'_>) -> String {
    match storage {
        "ks3" => {
            let plain = region.trim_start_matches('-');
            let plain = plain.strip_suffix("-internal").unwrap_or(plain);
            let known = || KS3_REGIONS.iter().find(|(name, _)| *name == plain).map(|(_, region)| (*region).to_owned());
            let named = if is_ksyun(host) { known() } else { region_variable(variables).or(Some(plain.to_owned())) };
            named.filter(|region| !region.is_empty()).unwrap_or_else(|| DEFAULT_REGION.to_owned())
        }
        "oss" => match variables("ALICLOUD_REGION_ID").filter(|id| !id.is_empty()) {
            Some(id) => format!("oss-{id}"),
            None => region.strip_suffix("-internal").unwrap_or(region).to_owned(),
        },
        _ => region.to_owned(),
    }
}

fn is_ksyun(host: &str) -> bool {
    host.ends_with("ksyun.com") || host.ends_with("ksyuncs.com")
}

/// Environment variables with the keys of a storage, besides those that every storage has.
pub(super) fn key_variables(storage: &str) -> Option<(&'static str, &'static str, Option<&'static str>)> {
    Some(match storage {
        "minio" => ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", None),
        "bos" => ("BDCLOUD_ACCESS_KEY", "BDCLOUD_SECRET_KEY", None),
        "cos" => ("COS_SECRETID", "COS_SECRETKEY", None),
        "eos" => ("EOS_ACCESS_KEY", "EOS_SECRET_KEY", Some("EOS_TOKEN")),
        "obs" => ("HWCLOUD_ACCESS_KEY", "HWCLOUD_SECRET_KEY", None),
        "oss" => ("ALICLOUD_ACCESS_KEY_ID", "ALICLOUD_ACCESS_KEY_SECRET", Some("SECURITY_TOKEN")),
        "scw" => ("SCW_ACCESS_KEY", "SCW_SECRET_KEY", None),
        _ => return None,
    })
}
