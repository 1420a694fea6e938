use juicefs_tls::TlsFiles;

use super::*;

fn with(storage: &'static str, bucket: &str, variables: &[(&str, &str)]) -> Result<Bucket, String> {
    let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    super::bucket(storage, bucket, &find)
}

/// `SCHEME HOST BUCKET REGION STYLE`.
fn read(storage: &'static str, bucket: &str, variables: &[(&str, &str)]) -> String {
    let read = with(storage, bucket, variables).expect(bucket);
    let style = if read.path_style { "path" } else { "host" };
    format!("{} {} {} {} {style}", read.scheme, read.host, read.name, read.region)
}

fn refused(storage: &'static str, bucket: &str) -> String {
    let text = with(storage, bucket, &[]).expect_err(bucket);
    assert!(text.contains(&format!("\"{bucket}\"")) && !text.contains('\n'), "{text}");
    text
}

#[test]
fn s3_addresses() {
    let cases = [
        ("https://b.s3.eu-west-1.amazonaws.com", "https s3.eu-west-1.amazonaws.com b eu-west-1 host"),
        ("b.s3.eu-west-1.amazonaws.com", "https s3.eu-west-1.amazonaws.com b eu-west-1 host"),
        ("https://b.s3-eu-west-1.amazonaws.com", "https s3-eu-west-1.amazonaws.com b eu-west-1 host"),
        ("https://b.s3.amazonaws.com", "https s3.amazonaws.com b us-east-1 host"),
        (
            "https://b.s3.dualstack.eu-west-1.amazonaws.com",
            "https s3.dualstack.eu-west-1.amazonaws.com b eu-west-1 host",
        ),
        ("https://b.s3.cn-north-1.amazonaws.com.cn", "https s3.cn-north-1.amazonaws.com.cn b cn-north-1 host"),
        ("https://s3.eu-west-1.amazonaws.com/b", "https s3.eu-west-1.amazonaws.com b eu-west-1 host"),
        ("https://s3.eu-west-1.amazonaws.com/b/deeper/", "https s3.eu-west-1.amazonaws.com b eu-west-1 host"),
        ("https://s3.eu-west-1.amazonaws.com/b.c", "https s3.eu-west-1.amazonaws.com b.c eu-west-1 path"),
        ("https://b.c.s3.eu-west-1.amazonaws.com", "https s3.eu-west-1.amazonaws.com b.c eu-west-1 path"),
        (
            "https://b.bucket.vpce-1-2.s3.us-west-2.vpce.amazonaws.com",
            "https bucket.vpce-1-2.s3.us-west-2.vpce.amazonaws.com b us-west-2 path",
        ),
        ("b", "https s3.us-east-1.amazonaws.com b us-east-1 host"),
        ("http://127.0.0.1:9000/b", "http 127.0.0.1:9000 b us-east-1 path"),
        ("http://[::1]:9000/b", "http [::1]:9000 b us-east-1 path"),
        ("http://s3.example.com:80/b?region=x", "http s3.example.com b x path"),
        ("https://b.s3.example.com:8443", "https s3.example.com:8443 b us-east-1 path"),
        ("s3.example.com/b", "http s3.example.com b us-east-1 path"),
        (
            "https://b.ns.compat.objectstorage.eu-frankfurt-1.oraclecloud.com",
            "https ns.compat.objectstorage.eu-frankfurt-1.oraclecloud.com b eu-frankfurt-1 path",
        ),
        ("https://b.s3.gra.io.cloud.ovh.net", "https s3.gra.io.cloud.ovh.net b gra path"),
    ];
    for (given, wanted) in cases {
        assert_eq!(read("s3", given, &[]), wanted, "{given}");
    }
}

#[test]
fn regions_and_styles_come_from_the_environment_where_the_address_has_none() {
    let region = [("AWS_REGION", "eu-north-1"), ("AWS_DEFAULT_REGION", "other")];
    assert_eq!(read("s3", "http://h/b", &region), "http h b eu-north-1 path");
    assert_eq!(read("s3", "http://h/b", &region[1..]), "http h b other path");
    assert_eq!(read("s3", "b", &region), "https s3.eu-north-1.amazonaws.com b eu-north-1 host");
    assert_eq!(
        read("s3", "https://b.s3.eu-west-1.amazonaws.com", &region),
        "https s3.eu-west-1.amazonaws.com b eu-west-1 host"
    );
    for (value, style) in [("1", "host"), ("true", "host"), ("0", "path"), ("False", "path"), ("", "path")] {
        let wanted = format!("http h b us-east-1 {style}");
        assert_eq!(read("s3", "http://h/b", &[("JFS_S3_VHOST_STYLE", value)]), wanted, "{value}");
    }
    assert_eq!(read("minio", "http://h/b", &[("MINIO_REGION", "m")]), "http h b m path");
}

#[test]
fn addresses_of_vendors() {
    let cases = [
        ("minio", "http://h:9000/b?region=r", "http h:9000 b r path"),
        ("minio", "h:9000/b", "http h:9000 b us-east-1 path"),
        ("minio", "http://h:9000/minio/b/", "http h:9000 b us-east-1 path"),
        ("gs", "gs://b", "https storage.googleapis.com b auto path"),
        ("gs", "b.europe-west1", "https storage.googleapis.com b auto path"),
        ("b2", "https://b.s3.us-west-004.backblazeb2.com", "https s3.us-west-004.backblazeb2.com b us-west-004 host"),
        ("bos", "https://b.bj.bcebos.com", "https s3.bj.bcebos.com b bj host"),
        ("cos", "https://b-125.cos.ap-beijing.myqcloud.com", "https cos.ap-beijing.myqcloud.com b-125 ap-beijing host"),
        ("eos", "https://b.eos-wuxi-1.cmecloud.cn", "https eos-wuxi-1.cmecloud.cn b us-east-1 path"),
        (
            "ibmcos",
            "https://b.s3.us-east.cloud-object-storage.appdomain.cloud",
            "https s3.us-east.cloud-object-storage.appdomain.cloud b us-east path",
        ),
        ("ks3", "https://b.ks3-cn-beijing.ksyuncs.com", "https ks3-cn-beijing.ksyuncs.com b BEIJING host"),
        (
            "ks3",
            "https://b.ks3-cn-beijing-internal.ksyuncs.com",
            "https ks3-cn-beijing-internal.ksyuncs.com b BEIJING host",
        ),
        (
            "obs",
            "https://b.obs.cn-north-4.myhuaweicloud.com",
            "https obs.cn-north-4.myhuaweicloud.com b cn-north-4 host",
        ),
        ("oos", "https://b.oos-cn.ctyunapi.cn", "https oos-cn.ctyunapi.cn b cn path"),
        ("oss", "https://b.oss-cn-hangzhou.aliyuncs.com", "https oss-cn-hangzhou.aliyuncs.com b oss-cn-hangzhou host"),
        (
            "oss",
            "b.oss-cn-hangzhou-internal.aliyuncs.com",
            "https oss-cn-hangzhou-internal.aliyuncs.com b oss-cn-hangzhou host",
        ),
        (
            "oss",
            "https://b.ep-1.oss.cn-beijing.privatelink.aliyuncs.com",
            "https ep-1.oss.cn-beijing.privatelink.aliyuncs.com b oss-cn-beijing path",
        ),
        (
            "oss",
            "http://b.oss-cn-x-vpc.aliyuncs.com?disable-checksum=true",
            "http oss-cn-x-vpc.aliyuncs.com b oss-cn-x host",
        ),
        ("gs", "https://b.us-central1", "https storage.googleapis.com b auto path"),
        ("cos", "b-125.cos-internal.ap-x.tencentcos.cn", "https cos-internal.ap-x.tencentcos.cn b-125 ap-x host"),
        ("qiniu", "https://b.cn-east-1-s3.qiniucs.com", "https cn-east-1-s3.qiniucs.com b cn-east-1 path"),
        ("qiniu", "http://b.qvm-z1-s3.qiniucs.com", "http qvm-z1-s3.qiniucs.com b cn-east-1 path"),
        ("tos", "b.tos-cn-x.ivolces.com", "https tos-s3-cn-x.ivolces.com b cn-x host"),
        ("ks3", "b.kss.ksyun.com", "https kss.ksyun.com b HANGZHOU host"),
        ("qingstor", "https://b.pek3b.qingstor.com", "https s3.pek3b.qingstor.com b pek3b host"),
        ("qiniu", "https://b.s3-cn-east-1.qiniucs.com", "https s3-cn-east-1.qiniucs.com b cn-east-1 path"),
        ("scw", "https://b.s3.fr-par.scw.cloud", "https s3.fr-par.scw.cloud b fr-par host"),
        ("space", "https://b.nyc3.digitaloceanspaces.com", "https nyc3.digitaloceanspaces.com b nyc3 host"),
        ("tos", "https://b.tos-cn-beijing.volces.com", "https tos-s3-cn-beijing.volces.com b cn-beijing host"),
        (
            "wasabi",
            "https://b.s3.eu-central-1.wasabisys.com",
            "https s3.eu-central-1.wasabisys.com b eu-central-1 host",
        ),
    ];
    for (storage, given, wanted) in cases {
        assert_eq!(read(storage, given, &[]), wanted, "{storage} {given}");
    }
    let oss = [("ALICLOUD_REGION_ID", "cn-x")];
    assert_eq!(read("oss", "b", &oss), "https oss-cn-x.aliyuncs.com b oss-cn-x host");
    assert_eq!(read("obs", "b", &[("HWCLOUD_DEFAULT_REGION", "r")]), "https obs.r.myhuaweicloud.com b r host");
    let bos = [("BDCLOUD_DEFAULT_REGION", "gz")];
    assert_eq!(read("bos", "https://b.bcebos.com", &bos), "https s3.gz.bcebos.com b gz host");
    assert_eq!(read("bos", "b.bj.bcebos.com", &bos), "https s3.bj.bcebos.com b bj host");
    assert_eq!(read("oss", "https://b.my.oss.example", &oss), "https my.oss.example b oss-cn-x host");
}

#[test]
fn every_s3_storage_of_the_table_reads_addresses() {
    for storage in crate::object::supported() {
        if !matches!(storage, "file" | "mem" | "wasb" | "webdav") {
            // The third label is the region of some.
            with(storage, "https://b.s3-r.r.example.com/b", &[]).expect(storage);
        }
    }
}

#[test]
fn bad_addresses_are_named_with_a_good_one() {
    assert!(refused("minio", "http://h:9000").contains("http://HOST:9000/BUCKET"));
    assert!(refused("s3", "http://127.0.0.1:9000").contains("http://HOST:PORT/BUCKET"));
    assert!(refused("s3", "http://[::1]:9000").contains("http://HOST:PORT/BUCKET"));
    assert!(refused("s3", "https://ec2.amazonaws.com").contains("https://BUCKET.s3.REGION.amazonaws.com"));
    assert!(refused("oss", "b").contains("https://BUCKET.oss-REGION.aliyuncs.com"));
    assert!(refused("oss", "b").contains("ALICLOUD_REGION_ID names the region"));
    assert!(refused("obs", "b").contains("https://BUCKET.obs.REGION.myhuaweicloud.com, or HWCLOUD_DEFAULT_REGION"));
    assert!(refused("bos", "https://b.bcebos.com").contains("https://BUCKET.REGION.bcebos.com, or BDCLOUD_DEFAULT"));
    assert!(refused("bos", "b").contains("https://BUCKET.REGION.bcebos.com"));
    assert!(refused("cos", "b-125").contains("https://BUCKET-APPID.cos.REGION.myqcloud.com"));
    assert!(refused("b2", "https://b").contains("https://BUCKET.s3.REGION.backblazeb2.com"));
    for storage in ["scw", "wasabi", "space", "tos", "qiniu", "qingstor", "oos", "eos", "ks3", "ibmcos"] {
        assert!(refused(storage, "b").contains("https://BUCKET."), "{storage}");
    }
    assert!(refused("b2", "b").contains("https://BUCKET.s3.REGION.backblazeb2.com"));
    assert!(refused("s3", "").contains("empty"));
    assert!(refused("s3", "ftp://h/b").contains("ftp://"));
    assert!(refused("s3", "http://key:secret@h/b").contains("--access-key"));
    assert!(refused("s3", "http://h:port/b").contains("port"));
    assert!(refused("s3", "http://h/b?tls-insecure-skip-verify=maybe").contains("maybe"));
}

#[test]
fn options_of_an_address() {
    let bucket =
        with("s3", "https://h/b?disable-checksum=true&tls-insecure-skip-verify=true", &[]).expect("an address");
    assert!(!bucket.checksum && bucket.tls.skip_verify);
    let bucket = with("s3", "https://h/b?ca-certs=/a&ssl-cert=/c&ssl-key=/k", &[]).expect("an address");
    assert!(bucket.checksum);
    let wanted =
        TlsFiles { skip_verify: false, authorities: Some("/a".into()), client: Some(("/c".into(), "/k".into())) };
    assert_eq!(bucket.tls, wanted);
    // Without its key a certificate is as good as none.
    assert_eq!(with("s3", "https://h/b?ssl-cert=/c", &[]).expect("an address").tls, TlsFiles::default());
    assert_eq!(bucket.describe(), "s3://h/b/");
    assert_eq!(with("s3", "b", &[]).expect("an address").describe(), "s3://b/");
}
