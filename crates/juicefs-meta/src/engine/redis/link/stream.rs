//! Byte streams to a server: TCP, socket files, TLS.

use std::{
    fmt, io,
    path::PathBuf,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream, tcp, unix},
};
use tokio_rustls::client::TlsStream;

use super::{tls::TlsClient, trouble::SetupError};
use crate::engine::redis::address::Host;

/// A silent peer is asked for a sign of life after this long, and given up after as many times as this again.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Tcp(Host),
    Socket(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host) => host.fmt(f),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

/// A stream while one task has it.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects. The caller limits the time.
    pub(super) async fn open(target: &Target, tls: Option<&Arc<TlsClient>>) -> Result<Self, SetupError> {
        let unreachable = |error: io::Error| SetupError::Unreachable(format!("cannot connect to {target}: {error}"));
        let host = match target {
            Target::Socket(path) => return UnixStream::connect(path).await.map(Self::Unix).map_err(unreachable),
            Target::Tcp(host) => host,
        };
        let stream = TcpStream::connect((host.name.as_str(), host.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(unreachable)?;
        match tls {
            None => Ok(Self::Tcp(stream)),
            Some(tls) => Ok(Self::Tls(Box::new(tls.connect(host, stream).await?))),
        }
    }

    /// Sends all of `bytes`.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Unix(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Adds what arrives to `buffer`; 0 is the end.
    pub(super) async fn receive(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read_buf(buffer).await,
            Self::Unix(stream) => stream.read_buf(buffer).await,
            Self::Tls(stream) => stream.read_buf(buffer).await,
        }
    }

    /// One end for the task that drives the connection, and one on which anybody may write, if there can be such.
    pub(super) fn split(self) -> (DriverEnd, Option<SharedEnd>) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (DriverEnd::Tcp(read), Some(SharedEnd::Tcp(write)))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (DriverEnd::Unix(read), Some(SharedEnd::Unix(write)))
            }
            Self::Tls(stream) => (DriverEnd::Tls(stream), None),
        }
    }
}

/// The end that reads; with TLS, also the one that writes.
pub(super) enum DriverEnd {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Tls(Box<TlsStream<TcpStream>>),
}

impl DriverEnd {
    /// Adds what has arrived to `buffer`; 0 is the end.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => pin!(stream.read_buf(buffer)).poll(cx),
            Self::Unix(stream) => pin!(stream.read_buf(buffer)).poll(cx),
            Self::Tls(stream) => pin!(stream.read_buf(buffer)).poll(cx),
        }
    }

    /// Sends some of `bytes`.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        shared: Option<&SharedEnd>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match (self, shared) {
            (Self::Tls(stream), _) => Pin::new(stream.as_mut()).poll_write(cx, bytes),
            (_, Some(shared)) => shared.poll_send(cx, bytes),
            (_, None) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Pushes out what TLS holds back.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Self::Tcp(_) | Self::Unix(_) => Poll::Ready(Ok(())),
        }
    }
}

/// The end that writes, from any thread.
pub(super) enum SharedEnd {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
}

impl SharedEnd {
    /// Sends some of `bytes` if that is possible at once, else fails with `WouldBlock`.
    pub(super) fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(match self {
                Self::Tcp(stream) => stream.as_ref().poll_write_ready(cx),
                Self::Unix(stream) => stream.as_ref().poll_write_ready(cx),
            })?;
            match self.try_send(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// Ends the stream in both directions, whoever still has an end.
    pub(super) fn shut(&self) {
        // It fails when the peer was faster.
        let _ = match self {
            Self::Tcp(stream) => SockRef::from(stream.as_ref()).shutdown(std::net::Shutdown::Both),
            Self::Unix(stream) => SockRef::from(stream.as_ref()).shutdown(std::net::Shutdown::Both),
        };
    }
}
