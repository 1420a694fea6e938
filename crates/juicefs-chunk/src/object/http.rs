//! Object stores are reached by HTTP with the connections and the TLS of this file, which also tells answers that are
//! refusals.
//!
//! Redirects are not followed: a signature is for one host. Proxies are those of `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.

mod refusal;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use juicefs_core::StorageError;
use juicefs_tls::{OptionNames, TlsFiles};
use opendal::{Buffer, HttpBody, HttpTransport, raw::oio::ReadStream};
use opendal_http_transport_reqwest::ReqwestTransport;

pub(super) use refusal::{Outcome, Refusal};

/// The longest time until a connection is there. The deadline of the request comes later, and its message says less.
const CONNECT: Duration = Duration::from_secs(10);
/// Unused connections are closed after this time, before most servers close them.
const IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// So much of the body of a refusal is read at most.
const REFUSAL_BYTES: usize = 64 << 10;

/// The names that TLS options have in the address of a bucket.
pub(super) const TLS_OPTIONS: OptionNames =
    OptionNames { authorities: "ca-certs", certificate: "ssl-cert", key: "ssl-key" };

/// Makes connections that storages may share.
///
/// # Errors
/// `Permanent` with a sentence about a certificate file that cannot be used.
pub(super) fn client(tls: &TlsFiles) -> Result<reqwest::Client, StorageError> {
    let config = tls.config(&TLS_OPTIONS).map_err(|error| StorageError::Permanent(error.to_string()))?;
    reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .user_agent(concat!("JuiceFS-", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .tcp_keepalive(KEEP_ALIVE)
        .tcp_nodelay(true)
        .http1_only()
        .build()
        .map_err(|e| StorageError::Permanent(format!("HTTP cannot be used: {e}")))
}

/// Requests to one endpoint. Answers that are refusals become errors which carry a [`Refusal`].
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    transport: ReqwestTransport,
    authority: String,
}

impl Endpoint {
    /// Makes requests to `host`, the host of the endpoint. Hosts that end with it are its buckets.
    pub(super) fn new(client: reqwest::Client, host: &str) -> Self {
        Self { transport: ReqwestTransport::new(client), authority: host.to_owned() }
    }

    /// Whether a request goes to the store. Keys may come from elsewhere by the same connections.
    fn is_store(&self, request: &Request<Buffer>) -> bool {
        request.uri().authority().is_some_and(|authority| authority.as_str().ends_with(&self.authority))
    }
}

impl HttpTransport for Endpoint {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let (is_store, method) = (self.is_store(&request), request.method().clone());
        let response = self.transport.fetch(request).await?;
        if !is_store || response.status().is_success() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let text = if method == Method::HEAD { Bytes::new() } else { beginning(body).await? };
        Err(Refusal::read(&parts, &text).into())
    }
}

/// Reads the first bytes of the body of a refusal.
///
/// A body that breaks off is an error and no refusal, because the status alone does not tell keys that were replaced from a
/// right that is missing, nor a missing bucket from a missing object. A server breaks off like this when it closes the
/// connection before it has read a body that it does not want.
async fn beginning(mut body: HttpBody) -> opendal::Result<Bytes> {
    let mut text = Vec::new();
    while text.len() < REFUSAL_BYTES {
        let part = body.read().await?;
        if part.is_empty() {
            break;
        }
        text.extend_from_slice(&part.to_bytes());
    }
    Ok(text.into())
}
