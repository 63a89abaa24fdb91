//! A WebSocket that echoes (RFC 6455): enough of the protocol for real clients, none of its extensions.

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::wire::Wire;

const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
/// Longest payload echoed.
const PAYLOAD_MAX: u64 = 1 << 20;

/// Echoes frames until the peer closes.
pub(crate) async fn echo(wire: &mut Wire) -> io::Result<()> {
    loop {
        let [first, second] = [wire.read_u8().await?, wire.read_u8().await?];
        let length = match second & 0x7f {
            126 => u64::from(wire.read_u16().await?),
            127 => wire.read_u64().await?,
            short => u64::from(short),
        };
        if second & 0x80 == 0 || length > PAYLOAD_MAX {
            // Clients must mask (5.1), and nobody tests with more.
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut mask = [0; 4];
        wire.read_exact(&mut mask).await?;
        let mut payload = vec![0; usize::try_from(length).unwrap_or_default()];
        wire.read_exact(&mut payload).await?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        let opcode = first & 0x0f;
        match opcode {
            PONG => continue,
            PING => send(wire, first & 0xf0 | PONG, &payload).await?,
            _ => send(wire, first, &payload).await?,
        }
        if opcode == CLOSE {
            return Ok(());
        }
    }
}

async fn send(wire: &mut Wire, first: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(u8::try_from(short).unwrap_or_default()),
        middle @ 126..=0xffff => {
            frame.push(126);
            frame.extend(u16::try_from(middle).unwrap_or_default().to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    wire.write_all(&frame).await?;
    wire.flush().await
}
