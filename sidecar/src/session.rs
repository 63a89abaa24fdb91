//! Joins the two connections of a session and copies both ways until both ends are done.

use std::io;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio_util::io::InspectReader;

use crate::upstream::UpstreamIo;

/// For each direction: what one read takes at most.
pub(crate) const COPY_BUFFER: usize = 16 * 1024;

/// What a session or tunnel has carried. Counted as it passes: one that breaks, or is cut off, has carried something too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from the agent to the far side.
    pub sent: u64,
    /// Bytes from the far side to the agent.
    pub received: u64,
}

/// Waits for the agent's side of an upgrade (it follows once the 101 has been returned as the answer), then copies
/// until both directions have ended. Run it in a task of its own.
///
/// # Errors
/// When the agent's side does not come about, or either connection breaks.
pub async fn join(agent: OnUpgrade, upstream: UpstreamIo, carried: &mut Carried) -> io::Result<()> {
    let agent = agent.await.map_err(io::Error::other)?;
    copy_both(TokioIo::new(agent), upstream, carried).await
}

pub(crate) async fn copy_both<A, B>(agent: A, upstream: B, carried: &mut Carried) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let Carried { sent, received } = carried;
    let mut agent = InspectReader::new(agent, |bytes| *sent += bytes.len() as u64);
    let mut upstream = InspectReader::new(upstream, |bytes| *received += bytes.len() as u64);
    copy_bidirectional_with_sizes(&mut agent, &mut upstream, COPY_BUFFER, COPY_BUFFER).await?;
    Ok(())
}
