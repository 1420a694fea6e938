//! Each storage that speaks S3 has forms of addresses, by which `--storage` and `--bucket` name a bucket (cli.md §3).

use super::{
    address::{Address, path_style, region_variable},
    bucket::{Bucket, DEFAULT_REGION, is_aws},
    vendors,
};
use crate::object::opening::Variables;

/// Reads the forms of `--bucket` that `storage` has.
///
/// # Errors
/// A sentence for the user.
pub(super) fn bucket(storage: &'static str, given: &str, variables: &Variables<'_>) -> Result<Bucket, String> {
    let address = Address::parse(storage, given)?;
    match storage {
        "s3" => of_s3(&address, variables),
        "minio" => of_minio(&address, variables),
        "gs" => of_gs(&address),
        _ => vendors::bucket(&address, variables),
    }
}

fn of_s3(address: &Address, variables: &Variables<'_>) -> Result<Bucket, String> {
    let fallback = region_variable(variables).unwrap_or_else(|| DEFAULT_REGION.to_owned());
    let style = path_style(variables);
    if let Some(bucket) = &address.path {
        return Ok(match aws_region(&address.host) {
            Some(region) => address.bucket(&address.host, bucket, &region, false),
            None => address.bucket(&address.host, bucket, &fallback, style),
        });
    }
    if address.is_ip {
        return Err(format!(
            "bucket \"{}\" of storage s3 is not valid: it names no bucket, as http://HOST:PORT/BUCKET does",
            address.given
        ));
    }
    let Some((bucket, rest)) = address.split_host() else {
        // Without an endpoint it is a bucket of AWS in the region of this machine.
        return Ok(address.bucket(&format!("s3.{fallback}.amazonaws.com"), &address.host, &fallback, false));
    };
    if let Some(zone) = address.host.strip_suffix(".vpce.amazonaws.com").and_then(|host| host.rsplit('.').next()) {
        return Ok(address.bucket(rest, bucket, zone, style));
    }
    if is_aws(&address.host) {
        let Some(at) = address.host.find(".s3") else {
            return Err(format!(
                "bucket \"{}\" of storage s3 is not valid: an address at AWS is like \
                 https://BUCKET.s3.REGION.amazonaws.com",
                address.given
            ));
        };
        let (bucket, endpoint) = (&address.host[..at], &address.host[at + 1..]);
        let region = aws_region(endpoint).unwrap_or(fallback);
        return Ok(address.bucket(endpoint, bucket, &region, false));
    }
    let region = region_in_host(rest).unwrap_or(fallback);
    Ok(address.bucket(rest, bucket, &region, style))
}

fn of_minio(address: &Address, variables: &Variables<'_>) -> Result<Bucket, String> {
    let Some(bucket) = &address.path else {
        return Err(format!(
            "bucket \"{}\" of storage minio is not valid: it names no bucket, as http://HOST:9000/BUCKET does",
            address.given
        ));
    };
    let region = variables("MINIO_REGION").unwrap_or_else(|| DEFAULT_REGION.to_owned());
    Ok(address.bucket(&address.host, bucket, &region, path_style(variables)))
}

/// Google's storage is reached by its S3 interface. A region in the address is only of use for making buckets.
fn of_gs(address: &Address) -> Result<Bucket, String> {
    let bucket = address.host.split('.').next().unwrap_or(&address.host);
    Ok(address.bucket("storage.googleapis.com", bucket, "auto", true))
}

/// Finds the region in `s3.REGION.amazonaws.com`, `s3-REGION.…`, `s3.dualstack.REGION.…` and their Chinese kin.
fn aws_region(host: &str) -> Option<String> {
    if !is_aws(host) {
        return None;
    }
    let rest = host.strip_prefix("s3-").or_else(|| host.strip_prefix("s3.")).unwrap_or(host);
    let rest = rest.strip_prefix("dualstack.").unwrap_or(rest);
    let region = rest.split('.').next().unwrap_or(rest);
    Some(match region {
        "amazonaws" | "external-1" => DEFAULT_REGION.to_owned(),
        region => region.to_owned(),
    })
}

/// Finds the region in the hosts of those compatible services that check it.
fn region_in_host(host: &str) -> Option<String> {
    let labels: Vec<&str> = host.split('.').collect();
    match labels[..] {
        // Oracle: NAMESPACE.compat.objectstorage.REGION.oraclecloud.com
        [_, "compat", "objectstorage", region, "oraclecloud", "com"] => Some(region.to_owned()),
        // OVH: s3.REGION.io.cloud.ovh.net and its other zones
        ["s3", region, .., "ovh", "net" | "us" | "ca"] => Some(region.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
