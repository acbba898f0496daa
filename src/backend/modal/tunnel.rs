//! The way through an HTTP proxy, told by whom and with which words it is closed.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A longer answer is none of a proxy.
const LONGEST_HEAD: usize = 8 << 10;

#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelError {
    #[error("the proxy {proxy} (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) cannot be used: {reason}")]
    Broken { proxy: String, reason: std::io::Error },
    #[error(
        "the proxy {proxy} (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) refuses {host}: {answer}; NO_PROXY names hosts that are reached without it"
    )]
    Refused { proxy: String, host: String, answer: String },
}

impl TunnelError {
    /// Whether the proxy will say the same the next time; what it cannot reach now it may reach later.
    pub(super) fn is_final(&self) -> bool {
        let Self::Refused { answer, .. } = self else { return false };
        answer.starts_with('4') && !["408", "425", "429"].iter().any(|passing| answer.starts_with(passing))
    }
}

/// Whose proxy, the host and port behind it, and what opens it.
pub(super) struct Tunnel<'a> {
    /// `host:port`
    pub(super) proxy: &'a str,
    /// `host:port`
    pub(super) target: &'a str,
    /// The whole value of its header.
    pub(super) authorization: Option<&'a [u8]>,
}

impl Tunnel<'_> {
    pub(super) async fn open(&self) -> Result<TcpStream, TunnelError> {
        let broken = |reason| TunnelError::Broken { proxy: self.proxy.to_owned(), reason };
        let mut stream = TcpStream::connect(self.proxy).await.map_err(broken)?;
        let answer = self.ask(&mut stream).await.map_err(broken)?;
        if answer.starts_with('2') {
            return Ok(stream);
        }
        Err(TunnelError::Refused { proxy: self.proxy.to_owned(), host: self.target.to_owned(), answer })
    }

    /// The status and its words, as the proxy gives them.
    async fn ask(&self, stream: &mut TcpStream) -> std::io::Result<String> {
        let target = self.target;
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(authorization) = self.authorization {
            request.extend_from_slice(&[b"Proxy-Authorization: ", authorization, b"\r\n"].concat());
        }
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request).await?;
        let mut head = Vec::new();
        // Byte by byte: what follows the head is the other side's.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() == LONGEST_HEAD {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head);
        let answer = head.lines().next().and_then(|line| line.strip_prefix("HTTP/1."));
        let answer = answer.and_then(|rest| rest.split_once(' ')).map(|(_, answer)| answer.trim().to_owned());
        answer.ok_or_else(|| std::io::ErrorKind::InvalidData.into())
    }
}
