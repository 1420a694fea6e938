//! Listings of a server that cannot write every key into XML, as SeaweedFS is: it takes U+FFFD for what XML does not have,
//! unless keys are asked for encoded.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

/// What that server escapes of a key.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%').add(b'+').add(b'{').add(b'}').add(b'<').add(b'&');
/// Entries of one of its pages, however many are asked for.
const PAGE: usize = 2;

const KEYS: [&str; 6] =
    ["a b+c", "dir/", "dir/\u{1f}x&<y>", "dir/%41%zz", "测试{\"name\":\"juicefs\"}\u{1f}%uFF081%uFF09.jpg", "测试~"];

/// Answers one listing.
async fn answer(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a request"));
    }
    let head = String::from_utf8(head).expect("text");
    let query = head.split_whitespace().nth(1).and_then(|path| path.split_once('?')).expect("a query").1;
    let value = |name: &str| {
        let pair = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(known, _)| *known == name)?;
        Some(percent_decode_str(pair.1).decode_utf8().expect("UTF-8").into_owned())
    };
    let (prefix, encoded) = (value("prefix").unwrap_or_default(), value("encoding-type").as_deref() == Some("url"));
    let start = match (value("continuation-token"), value("start-after")) {
        (Some(token), _) => token.parse().expect("a token of ours"),
        (None, after) => KEYS.iter().filter(|key| **key <= after.clone().unwrap_or_default().as_str()).count(),
    };
    let most = value("max-keys").and_then(|most| most.parse().ok()).unwrap_or(PAGE).min(PAGE);
    let wanted: Vec<_> = (start..KEYS.len()).filter(|at| KEYS[*at].starts_with(&prefix)).collect();
    let shown = |key: &str| match encoded {
        true => utf8_percent_encode(key, ESCAPED).to_string(),
        false => key.replace('\u{1f}', "\u{fffd}").replace('&', "&amp;").replace('<', "&lt;"),
    };
    let mut body = "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>b</Name>".to_owned();
    for at in wanted.iter().take(most) {
        let key = shown(KEYS[*at]);
        body +=
            &format!("<Contents><Key>{key}</Key><LastModified>2009-10-12T17:50:30.000Z</LastModified><ETag>e</ETag>");
        body += &format!("<Size>{at}</Size><StorageClass>STANDARD</StorageClass></Contents>");
    }
    if let Some(next) = wanted.get(most) {
        body += &format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{next}</NextContinuationToken>");
    }
    if encoded {
        body += "<EncodingType>url</EncodingType>";
    }
    body += "</ListBucketResult>";
    let text = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await.expect("an answer");
}

#[tokio::test]
async fn keys_that_xml_cannot_have_are_listed_as_they_are() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let bucket = format!("http://{}/b", listener.local_addr().expect("an address"));
    let serving = tokio::spawn(async move {
        loop {
            answer(listener.accept().await.expect("a connection").0).await;
        }
    });
    let format = Format { access_key: "anonymous".into(), ..format("s3", &bucket, 0) };
    let store = s3_bucket(&bucket, &format);
    let listed = async |prefix: &str, after: &str, limit: usize| -> Vec<String> {
        store.list(prefix, after, limit).await.expect("a listing").into_iter().map(|object| object.key).collect()
    };
    let objects: Vec<_> = KEYS.into_iter().filter(|key| !key.ends_with('/')).collect();
    assert_eq!(listed("", "", 1000).await, objects);
    assert_eq!(listed("", "", 3).await, objects[..3]);
    assert_eq!(listed("测试", "", 1).await, objects[3..4]);
    assert_eq!(listed("dir/", objects[1], 10).await, objects[2..3]);
    assert_eq!(listed("", objects[3], 10).await, objects[4..]);
    let object = store.list("测试~", "", 1).await.expect("a listing").remove(0);
    assert_eq!((object.size, object.mtime.secs), (5, 1_255_369_830));
    serving.abort();
}
