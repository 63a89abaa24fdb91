//! How a dispatch can fail: with proof that nothing was sent, or in doubt. There is no third way.

use std::io;

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendFailure {
    /// The far side cannot have executed it; the evidence says why.
    #[error("nothing was sent: {0}")]
    NotSent(#[source] NotSent),
    /// It may have been executed.
    #[error("no answer, and it may have been executed: {0}")]
    Doubt(#[source] Doubt),
}

/// Proof that the far side saw nothing it could act on.
#[derive(Debug, thiserror::Error)]
pub enum NotSent {
    /// The host name does not resolve.
    #[error("the name does not resolve")]
    ResolveFailed(#[source] crate::resolve::ResolveError),
    /// No TCP connection came about.
    #[error("no connection could be opened")]
    ConnectFailed(#[source] io::Error),
    /// TLS did not come about: the far side's certificate is not trusted, or the handshake broke.
    #[error("the TLS handshake failed")]
    TlsFailed(#[source] io::Error),
    /// The far side does not speak the HTTP version that the request needs.
    #[error("the far side does not offer the HTTP version that this request needs")]
    ProtocolUnavailable,
    /// The connection, which this request had to itself, took not one byte of it.
    #[error("the connection failed before the first byte was written")]
    ZeroBytesWritten,
    /// HTTP/2: the stream's own response ended in `REFUSED_STREAM` (RFC 9113, 8.7).
    #[error("the far side refused the stream unprocessed")]
    RefusedStream,
    /// HTTP/2: the far side's GOAWAY names a last stream below this one.
    #[error("the far side went away before this stream")]
    GoawayBelow {
        /// What the GOAWAY named.
        last_stream: u32,
        /// The stream that carried the request.
        stream: u32,
    },
    /// `send_by` passed before the first byte was written.
    #[error("the deadline passed before the first byte was written")]
    DeadlineBeforeFirstByte,
    /// The request cannot be put on the wire as it is.
    #[error("the request cannot be serialised")]
    Unsendable,
    /// The permit does not cover this kind of request.
    #[error("an upgrade needs a session permit")]
    NoSession,
}

/// Why it is not known whether the request was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The connection or the stream was reset.
    #[error("the connection was reset")]
    Reset,
    /// The connection ended before an answer.
    #[error("the connection was closed before an answer")]
    Eof,
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// A GOAWAY that does not exclude this stream, and then no answer.
    #[error("the far side went away, and may have taken this stream along")]
    GoawayAmbiguous,
    /// The lease ended while request bytes were still to be written.
    #[error("the lease ended while the request was being written")]
    LeaseLost,
    /// The caller's body broke off after bytes of the request had gone out.
    #[error("the request body broke off midway")]
    RequestCut,
    /// What came back is not HTTP.
    #[error("the answer is not valid HTTP")]
    BadAnswer,
}

impl SendFailure {
    /// Whether there is proof that nothing was executed.
    pub const fn is_not_sent(&self) -> bool {
        matches!(self, Self::NotSent(_))
    }
}

impl From<NotSent> for SendFailure {
    fn from(proof: NotSent) -> Self {
        Self::NotSent(proof)
    }
}

impl From<Doubt> for SendFailure {
    fn from(doubt: Doubt) -> Self {
        Self::Doubt(doubt)
    }
}
