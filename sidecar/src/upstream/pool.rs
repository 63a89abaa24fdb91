//! Connections that wait for their next request, by origin; bounded in number and in age.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::http1::Http1;
use super::http2::Http2;
use crate::target::Target;

/// Servers commonly close an idle connection after a minute or two; we let go first.
const IDLE_LIMIT: Duration = Duration::from_secs(55);
/// Idle HTTP/1 connections kept for one origin.
const IDLE_PER_ORIGIN: usize = 64;
/// Idle HTTP/1 connections kept in all: file descriptors are the pod's, not ours.
const IDLE_TOTAL: usize = 512;
/// A side effect that is not idempotent does not use an HTTP/1 connection that has idled for longer (semantics).
const EFFECT_IDLE_LIMIT: Duration = Duration::from_secs(1);

/// What connections are interchangeable by.
pub(super) type Key = Target;

/// How old an idle connection may be for the request at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Any that is still open.
    Any,
    /// One used within the last second.
    Recent,
    /// None: open a new one.
    New,
}

#[derive(Debug, Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    origins: HashMap<Key, Idle>,
    idle_total: usize,
    swept: Option<Instant>,
}

#[derive(Debug, Default)]
struct Idle {
    /// Most recently used last.
    http1: Vec<Http1>,
    http2: Option<Http2>,
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most recently used idle connection that is fresh enough.
    pub(super) fn take_http1(&self, key: &Key, freshness: Freshness) -> Option<Http1> {
        let limit = match freshness {
            Freshness::Any => IDLE_LIMIT,
            Freshness::Recent => EFFECT_IDLE_LIMIT,
            Freshness::New => return None,
        };
        let mut state = self.state();
        let State { origins, idle_total, .. } = &mut *state;
        let idle = &mut origins.get_mut(key)?.http1;
        while let Some(connection) = idle.pop() {
            *idle_total -= 1;
            if connection.idle_since.elapsed() > limit && !kybernis_core::mutation::broken("no_effect_on_an_idle_connection") {
                if freshness == Freshness::Recent {
                    // Too old for this one; a read may still use it.
                    idle.push(connection);
                    *idle_total += 1;
                }
                return None;
            }
            if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    pub(super) fn put_http1(&self, key: &Key, mut connection: Http1) {
        if connection.is_closed() {
            return;
        }
        connection.idle_since = Instant::now();
        connection.reused = true;
        let mut state = self.state();
        state.sweep();
        if state.idle_total >= IDLE_TOTAL {
            return;
        }
        if !state.origins.contains_key(key) {
            state.origins.insert(key.clone(), Idle::default());
        }
        let State { origins, idle_total, .. } = &mut *state;
        if let Some(idle) = origins.get_mut(key)
            && idle.http1.len() < IDLE_PER_ORIGIN
        {
            idle.http1.push(connection);
            *idle_total += 1;
        }
    }

    pub(super) fn http2(&self, key: &Key, for_effect: bool) -> Option<Http2> {
        let state = self.state();
        let shared = state.origins.get(key)?.http2.as_ref()?;
        shared.is_usable(for_effect).then(|| shared.clone())
    }

    /// Offers a connection to later requests, in place of one that is of no more use.
    pub(super) fn put_http2(&self, key: &Key, connection: &Http2) {
        let mut state = self.state();
        state.sweep();
        let idle = state.origins.entry(key.clone()).or_default();
        if idle.http2.as_ref().is_none_or(|old| !old.is_usable(true)) {
            idle.http2 = Some(connection.clone());
        }
    }
}

impl State {
    /// Drops what is closed or too old. At most once in a quarter of the limit, since it looks at everything.
    fn sweep(&mut self) {
        if self.swept.is_some_and(|at| at.elapsed() < IDLE_LIMIT / 4) {
            return;
        }
        self.swept = Some(Instant::now());
        let mut idle_total = 0;
        self.origins.retain(|_, idle| {
            idle.http1.retain(|c| !c.is_closed() && c.idle_since.elapsed() <= IDLE_LIMIT);
            let stale = |c: &Http2| c.is_dead() || c.idle().is_some_and(|idle| idle > IDLE_LIMIT);
            if idle.http2.as_ref().is_some_and(stale) {
                idle.http2 = None;
            }
            idle_total += idle.http1.len();
            !idle.http1.is_empty() || idle.http2.is_some()
        });
        self.idle_total = idle_total;
    }
}
