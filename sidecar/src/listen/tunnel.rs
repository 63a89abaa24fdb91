//! A byte stream that is not read: the stack decides about it by address and name alone.

use std::fmt;
use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::sniff::{self, LOOK_AHEAD, Speech};
use super::{AgentStream, Place};
use crate::arrival::Origin;
use crate::permit::Permit;
use crate::session::{COPY_BUFFER, Carried, copy_both};
use crate::target::{Scheme, Target};
use crate::upstream::{NotSent, Upstream};

/// An agent's stream that waits for a decision. Dropping it closes the connection.
pub struct Tunnel {
    stream: AgentStream,
    origin: Origin,
    target: Target,
    unheard: Option<Unheard>,
}

/// The agent has said nothing yet, so nobody knows what it speaks: only its first word may show that this is no HTTP.
pub(super) struct Unheard {
    pub(super) place: Place,
    /// Takes the stream back, to be read after all.
    pub(super) back: oneshot::Sender<AgentStream>,
}

/// How a tunnel ended in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelEnd {
    /// Both ends are done.
    Carried,
    /// The agent, silent until then, spoke TLS or HTTP. Nothing was carried, and its requests are read and decided one by one.
    ReadAfterAll,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("origin", &self.origin).field("target", &self.target).finish_non_exhaustive()
    }
}

/// Why a tunnel ended early.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The far side could not be reached.
    #[error("the tunnel's far side could not be reached")]
    Unreachable(#[source] NotSent),
    /// Either side broke.
    #[error("the tunnel broke")]
    Broken(#[source] io::Error),
    /// The far side had spoken first, and what the agent then said would have to be read.
    #[error("the agent spoke TLS or HTTP after the far side had spoken first: the connection was reset")]
    SpokeLate,
}

impl Tunnel {
    pub(super) const fn new(stream: AgentStream, origin: Origin, target: Target, unheard: Option<Unheard>) -> Self {
        Self { stream, origin, target, unheard }
    }

    /// The connection that it came on.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Where it wants to go.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Whether it is TLS that is passed on unread, so that the target's name is the server name in it.
    pub const fn is_tls(&self) -> bool {
        matches!(self.target.scheme, Scheme::Https)
    }

    /// Connects and copies both ways until both ends are done; what has passed so far stands in `carried`. What an agent says that
    /// was silent until now is looked at first.
    ///
    /// # Errors
    /// When the far side is out of reach, when either connection breaks, or when the agent should have been read.
    pub async fn run(self, permit: Permit, upstream: &Upstream, carried: &mut Carried) -> Result<TunnelEnd, TunnelError> {
        let Self { mut stream, target, unheard, .. } = self;
        let mut far = upstream.open_tunnel(permit, &target).await.map_err(TunnelError::Unreachable)?;
        let mut told = Told { carried, end: false };
        if let Some(Unheard { place, back }) = unheard {
            match first_word(&mut stream, &mut far, &place, &mut told).await.map_err(TunnelError::Broken)? {
                Speech::Opaque | Speech::Silent | Speech::Nothing => {}
                Speech::Tls | Speech::Http1 | Speech::Http2 if told.is_nothing() => {
                    return match back.send(stream) {
                        Ok(()) => Ok(TunnelEnd::ReadAfterAll),
                        Err(_) => Err(TunnelError::Broken(io::ErrorKind::ConnectionAborted.into())),
                    };
                }
                Speech::Tls | Speech::Http1 | Speech::Http2 => {
                    tracing::warn!(%target.authority, "TLS or HTTP came after words of the far side, too late to be read: reset");
                    stream.reset();
                    return Err(TunnelError::SpokeLate);
                }
            }
        }
        copy_both(stream, far, told.carried).await.map_err(TunnelError::Broken)?;
        Ok(TunnelEnd::Carried)
    }
}

/// What the agent has been told before it said anything.
struct Told<'c> {
    carried: &'c mut Carried,
    end: bool,
}

impl Told<'_> {
    const fn is_nothing(&self) -> bool {
        self.carried.received == 0 && !self.end
    }
}

/// Tells a silent agent what the far side says, until the agent's own first word shows what it speaks. Of that nothing is taken.
async fn first_word(agent: &mut AgentStream, far: &mut TcpStream, place: &Place, told: &mut Told<'_>) -> io::Result<Speech> {
    let mut buffer = vec![0; COPY_BUFFER];
    loop {
        let begun = !sniff::after_empty_lines(agent.ahead()).is_empty();
        tokio::select! {
            biased;
            read = agent.read_ahead(LOOK_AHEAD) => {
                let ended = read? == 0;
                let begun = !sniff::after_empty_lines(agent.ahead()).is_empty();
                match sniff::judge_answer(agent.ahead(), place) {
                    _ if told.is_nothing() && begun => return sniff::sniff(agent, place).await,
                    Some(speech) => return Ok(speech),
                    None if ended => return Ok(sniff::undecided(agent.ahead(), Speech::Nothing)),
                    None => {}
                }
            }
            // Half a word that is not the beginning of HTTP is not withheld for good: a prompt may be answered without a newline.
            () = tokio::time::sleep(sniff::SILENCE), if begun && sniff::undecided(agent.ahead(), Speech::Silent) == Speech::Opaque => {
                return Ok(Speech::Opaque);
            }
            read = far.read(&mut buffer), if !told.end => match read? {
                0 => {
                    told.end = true;
                    agent.shutdown().await?;
                }
                len => {
                    told.carried.received += len as u64;
                    agent.write_all(&buffer[..len]).await?;
                    agent.flush().await?;
                }
            },
        }
    }
}
