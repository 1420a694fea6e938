//! An S3 server over a local directory, for tests: what s3s-fs does, with the refusals that it leaves out.
//!
//! `s3-server ROOT ADDRESS ACCESS-KEY SECRET-KEY [--domain NAME] [--expired-token TOKEN] [--keys FILE]
//! [--tls CERTIFICATE KEY AUTHORITY]`
//!
//! Requests must be signed with the keys, or name the access key nowhere at all and read from a bucket called `public-…`.
//! With `--keys` it is the pairs in that file that are good at the moment of a request, one ACCESS-KEY SECRET-KEY a line.
//! A directory in ROOT is a bucket. With TLS, clients must show a certificate of the authority. The process serves until it is killed.

mod access;
mod hosts;
mod keys;
mod tls;

use std::{env, io, path::PathBuf};

use anyhow::{Context, Result, bail};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

use access::Rules;
use hosts::Hosts;
use keys::KeyFile;

struct Options {
    root: PathBuf,
    address: String,
    access_key: String,
    secret_key: String,
    domain: Option<String>,
    expired_token: Option<String>,
    keys: Option<PathBuf>,
    tls: Option<[String; 3]>,
}

fn options() -> Result<Options> {
    let mut plain = Vec::new();
    let (mut domain, mut expired_token, mut keys, mut tls) = (None, None, None, None);
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--domain" => domain = words.next(),
            "--expired-token" => expired_token = words.next(),
            "--keys" => keys = words.next().map(PathBuf::from),
            "--tls" => tls = <[String; 3]>::try_from(words.by_ref().take(3).collect::<Vec<_>>()).ok(),
            _ => plain.push(word),
        }
    }
    let Ok([root, address, access_key, secret_key]) = <[String; 4]>::try_from(plain) else {
        bail!("four words are needed: ROOT ADDRESS ACCESS-KEY SECRET-KEY");
    };
    Ok(Options { root: root.into(), address, access_key, secret_key, domain, expired_token, keys, tls })
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = options()?;
    let files = FileSystem::new(&options.root).map_err(|e| io::Error::other(format!("{e:?}")))?;
    let mut builder = S3ServiceBuilder::new(files);
    match options.keys {
        Some(path) => builder.set_auth(KeyFile { path }),
        None => builder.set_auth(SimpleAuth::from_single(options.access_key, options.secret_key)),
    }
    builder.set_access(Rules { root: options.root, expired_token: options.expired_token });
    if let Some(domain) = options.domain {
        builder.set_host(Hosts { domain });
    }
    let service = builder.build();
    let listener =
        TcpListener::bind(&options.address).await.with_context(|| format!("listen on {}", options.address))?;
    let acceptor = options.tls.as_ref().map(tls::acceptor).transpose()?;
    let server = Builder::new(TokioExecutor::new());
    loop {
        let (connection, _) = listener.accept().await.context("accept a connection")?;
        // The last piece of a small answer must not wait for the client's acknowledgement of the first.
        connection.set_nodelay(true).context("set up a connection")?;
        let (server, service, acceptor) = (server.clone(), service.clone(), acceptor.clone());
        // A client that goes away, or that does not speak TLS as it should, ends its connection, not the server.
        tokio::spawn(async move {
            match acceptor {
                None => {
                    let _ = server.serve_connection(TokioIo::new(connection), service).await;
                }
                Some(acceptor) => {
                    if let Ok(connection) = acceptor.accept(connection).await {
                        let _ = server.serve_connection(TokioIo::new(connection), service).await;
                    }
                }
            }
        });
    }
}
