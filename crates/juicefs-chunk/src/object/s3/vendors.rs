//! Some vendors have an S3 interface and storages with names of their own. Their addresses name bucket, endpoint and region
//! in these ways.

use super::{
    address::{Address, path_style, region_variable},
    bucket::{Bucket, DEFAULT_REGION},
};
use crate::object::opening::Variables;

/// Says where the addresses of a vendor have what requests need.
struct Vendor {
    storage: &'static str,
    /// The form of an address, for messages.
    form: &'static str,
    /// Where the region is named.
    region: Region,
    style: Style,
    /// For hosts that have their S3 interface at another name: the end of such hosts, and the beginning of that name.
    sister: Option<(&'static str, &'static str)>,
    /// For addresses that leave the region out.
    short: Option<Short>,
}

/// An address that is a bucket alone, or with the end of a host: a variable names the region, and this is the host around
/// it. JuiceFS (Go) asks the vendor where such a bucket is.
struct Short {
    variable: &'static str,
    before: &'static str,
    after: &'static str,
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
    Vendor { storage, form, region, style, sister: None, short: None }
}

const VENDORS: &[Vendor] = &[
    vendor("b2", "https://BUCKET.s3.REGION.backblazeb2.com", Region::Label(1, ""), Style::Host),
    Vendor {
        sister: Some((".bcebos.com", "s3.")),
        short: Some(Short { variable: "BDCLOUD_DEFAULT_REGION", before: "", after: ".bcebos.com" }),
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
    Vendor {
        short: Some(Short { variable: "HWCLOUD_DEFAULT_REGION", before: "obs.", after: ".myhuaweicloud.com" }),
        ..vendor("obs", "https://BUCKET.obs.REGION.myhuaweicloud.com", Region::Label(1, ""), Style::Host)
    },
    vendor("oos", "https://BUCKET.oos-REGION.ctyunapi.cn", Region::Label(0, "oos-"), Style::Path),
    Vendor {
        short: Some(Short { variable: "ALICLOUD_REGION_ID", before: "oss-", after: ".aliyuncs.com" }),
        ..vendor("oss", "https://BUCKET.oss-REGION.aliyuncs.com", Region::Label(0, ""), Style::Host)
    },
    Vendor {
        sister: Some((".qingstor.com", "s3.")),
        ..vendor("qingstor", "https://BUCKET.REGION.qingstor.com", Region::Label(0, ""), Style::Host)
    },
    vendor("qiniu", "https://BUCKET.s3-REGION.qiniucs.com", Region::Label(0, "s3-"), Style::Path),
    vendor("scw", "https://BUCKET.s3.REGION.scw.cloud", Region::Label(1, ""), Style::Host),
    vendor("space", "https://BUCKET.REGION.digitaloceanspaces.com", Region::Label(0, ""), Style::Host),
    Vendor {
        // With an i before it inside of their network.
        sister: Some(("volces.com", "tos-s3-")),
        ..vendor("tos", "https://BUCKET.tos-REGION.volces.com", Region::Label(0, "tos-"), Style::Host)
    },
    vendor("wasabi", "https://BUCKET.s3.REGION.wasabisys.com", Region::Label(1, ""), Style::Host),
];

/// The names of KS3's regions, by the words for them in its addresses.
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

/// Returns the bucket that a vendor's address means.
///
/// # Errors
/// A sentence for the user.
pub(super) fn bucket(address: &Address, variables: &Variables<'_>) -> Result<Bucket, String> {
    let (storage, given) = (address.storage, &address.given);
    let vendor = VENDORS
        .iter()
        .find(|vendor| vendor.storage == storage)
        .ok_or_else(|| format!("object storage \"{storage}\" has no S3 interface"))?;
    let bad = || {
        let or = vendor.short.as_ref().map(|short| format!(", or {} names the region", short.variable));
        format!(
            "bucket \"{given}\" of storage {storage} is not valid: it should be like {}{}",
            vendor.form,
            or.unwrap_or_default()
        )
    };
    let (bucket, host) = match (address.split_host(), &vendor.short) {
        (Some((bucket, host)), short) if short.as_ref().is_none_or(|short| !short.is_cut(host)) => {
            (bucket, host.to_owned())
        }
        (Some((bucket, _)), Some(short)) => (bucket, short.host(variables).ok_or_else(bad)?),
        (None, Some(short)) if address.path.is_none() => (&*address.host, short.host(variables).ok_or_else(bad)?),
        _ => return Err(bad()),
    };
    let host = host.as_str();
    let labels: Vec<&str> = host.split(['.', ':']).collect();
    let region = match vendor.region {
        Region::Fixed(region) => region,
        Region::Label(at, before) => {
            let label = labels.get(at).copied().ok_or_else(bad)?;
            label.strip_prefix(before).unwrap_or(label)
        }
    };
    let region = particular_region(storage, region, host, variables).ok_or_else(bad)?;
    let path = match vendor.style {
        // The host of a private link is not the bucket's.
        Style::Host => is_private_link(storage, host),
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
    Ok(address.bucket(&host, bucket, &region, path))
}

impl Short {
    /// Whether a host without its bucket is only the end of one.
    fn is_cut(&self, host: &str) -> bool {
        self.after.strip_prefix('.') == Some(host)
    }

    /// The host in the region that the environment names.
    fn host(&self, variables: &Variables<'_>) -> Option<String> {
        let region = variables(self.variable).filter(|region| !region.is_empty())?;
        Some(format!("{}{region}{}", self.before, self.after))
    }
}

/// Returns the name of the region, which for some vendors is another than the word in the address; `None` when there is
/// none.
fn particular_region(storage: &str, region: &str, host: &str, variables: &Variables<'_>) -> Option<String> {
    Some(match storage {
        "ks3" => {
            // The oldest host, kss.ksyun.com, names none.
            let plain = region.strip_prefix("kss").unwrap_or(region).trim_start_matches('-');
            let plain = plain.strip_suffix("-internal").unwrap_or(plain);
            let known = || KS3_REGIONS.iter().find(|(name, _)| *name == plain).map(|(_, region)| (*region).to_owned());
            let named = if is_ksyun(host) { known() } else { region_variable(variables).or(Some(plain.to_owned())) };
            named.filter(|region| !region.is_empty()).unwrap_or_else(|| DEFAULT_REGION.to_owned())
        }
        "oss" => match variables("ALICLOUD_REGION_ID").filter(|id| !id.is_empty()) {
            Some(id) => format!("oss-{id}"),
            None if is_private_link(storage, host) => format!("oss-{}", host.split('.').nth(2)?),
            None => {
                let region = region.strip_suffix("-internal").unwrap_or(region);
                region.strip_suffix("-vpc").unwrap_or(region).to_owned()
            }
        },
        // Before s3-REGION it was REGION-s3.
        "qiniu" if host.starts_with("qvm-") => "cn-east-1".to_owned(),
        "qiniu" => region.strip_suffix("-s3").unwrap_or(region).to_owned(),
        _ => region.to_owned(),
    })
}

/// `ID.oss.REGION.privatelink.aliyuncs.com`.
fn is_private_link(storage: &str, host: &str) -> bool {
    storage == "oss" && host.ends_with(".aliyuncs.com") && host.contains(".privatelink.")
}

fn is_ksyun(host: &str) -> bool {
    host.ends_with("ksyun.com") || host.ends_with("ksyuncs.com")
}

/// Returns the names of the environment variables with access key, secret key and token that only this storage has.
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
