//! Refusals that break off. A server that refuses a large PUT by its head alone may close the connection before the body
//! has come, and that takes the end of its answer away.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// Answers each request with `text`, and breaks the connection off.
async fn serve(listener: TcpListener, text: String) {
    loop {
        let mut stream = listener.accept().await.expect("a connection").0;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a request"));
        }
        stream.write_all(text.as_bytes()).await.expect("an answer");
    }
}

/// What becomes of a put and a get.
async fn refused_with(text: &str) -> [StorageError; 2] {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let bucket = format!("http://{}/b", listener.local_addr().expect("an address"));
    let serving = tokio::spawn(serve(listener, text.to_owned()));
    let format = Format { access_key: "anonymous".into(), ..format("s3", &bucket, 0) };
    let store = s3_bucket(&bucket, &format);
    let errors = [
        store.put("k", body(b"hello")).await.expect_err("put"),
        store.get("k", None).await.map(drop).expect_err("get"),
    ];
    serving.abort();
    errors
}

#[tokio::test]
async fn a_refusal_without_its_end_is_worth_another_try() {
    let ends = ["", "<Error><Co", "<Error><Code>InvalidAccessKeyId</Code><Mess"];
    for status in ["403 Forbidden", "404 Not Found", "400 Bad Request", "501 Not Implemented"] {
        for end in ends {
            let length = format!("HTTP/1.1 {status}\r\nContent-Length: 200\r\n\r\n{end}");
            let chunked = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{end}");
            for text in [length, chunked] {
                for error in refused_with(&text).await {
                    assert!(matches!(error, StorageError::Transient(_)), "{text:?}: {error:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_that_is_whole_is_final() {
    let whole = "<Error><Code>InvalidAccessKeyId</Code><Message>m</Message></Error>";
    let answer = |status: &str, text: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
    };
    for error in refused_with(&answer("403 Forbidden", whole)).await {
        assert!(matches!(error, StorageError::Keys(_)), "{error:?}");
    }
    for error in refused_with(&answer("403 Forbidden", "")).await {
        assert!(matches!(error, StorageError::Permanent(_)), "{error:?}");
    }
}
