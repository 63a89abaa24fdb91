//! The queue of faults to come: who takes which, and what is left.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use http::Method;

use crate::fault::{Fault, Moment, Then, Times};
use crate::journal::Protocol;

/// What the script has for a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Draw {
    /// Nothing goes wrong.
    Nothing,
    /// This does.
    Fault(Fault),
    /// This should, but only HTTP/2 can say it; it stays in the queue.
    NeedsHttp2(Then),
}

/// Faults in the order in which they were scripted. Each request takes the first that befalls it; a fault of the connection
/// strikes only once it stands at the head, so that a script is a story in order.
#[derive(Debug, Default)]
pub(crate) struct Script(VecDeque<Fault>);

impl Script {
    pub(crate) fn add(&mut self, faults: impl IntoIterator<Item = Fault>) {
        self.0.extend(faults);
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn pending(&self) -> Vec<Fault> {
        self.0.iter().cloned().collect()
    }

    /// The listening sockets are to be closed now.
    pub(crate) fn for_listening(&mut self) -> Option<Fault> {
        let due = self.0.front()?.moment() == Moment::Listening;
        due.then(|| self.take(0))
    }

    /// A connection arrives.
    pub(crate) fn for_connection(&mut self, secure: bool) -> Option<Fault> {
        let fault = self.0.front()?;
        let strikes = fault.moment() == Moment::Connected && (secure || fault.then != Then::TlsHandshakeFailure);
        strikes.then(|| self.take(0))
    }

    /// The first bytes of a further request arrive on a connection.
    pub(crate) fn for_first_bytes(&mut self) -> Option<Fault> {
        let at = self.0.iter().position(|fault| fault.moment() == Moment::FirstBytes)?;
        Some(self.take(at))
    }

    /// A request has been read.
    pub(crate) fn for_request(&mut self, method: &Method, path: &str, protocol: Protocol) -> Draw {
        let befalls = |fault: &Fault| matches!(fault.moment(), Moment::Request | Moment::Http2Request) && fault.on.matches(method, path);
        match self.0.iter().position(befalls) {
            None => Draw::Nothing,
            Some(at) if self.0[at].moment() == Moment::Http2Request && protocol != Protocol::Http2 => {
                Draw::NeedsHttp2(self.0[at].then.clone())
            }
            Some(at) => Draw::Fault(self.take(at)),
        }
    }

    fn take(&mut self, at: usize) -> Fault {
        let fault = self.0[at].clone();
        match fault.times {
            Times::Forever(_) => {}
            Times::Count(count) => match NonZeroU32::new(count.get() - 1) {
                Some(left) => self.0[at].times = Times::Count(left),
                None => {
                    self.0.remove(at);
                }
            },
        }
        fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(faults: impl IntoIterator<Item = Fault>) -> Script {
        let mut script = Script::default();
        script.add(faults);
        script
    }

    fn post(script: &mut Script, protocol: Protocol) -> Draw {
        script.for_request(&Method::POST, "/v1/orders", protocol)
    }

    #[test]
    fn each_request_takes_the_first_fault_that_befalls_it() {
        let twice = Fault::new(Then::Drop).times(NonZeroU32::new(2).unwrap());
        let mut script = script([Fault::new(Then::Reset).on("GET", "/v1/orders"), twice.clone(), Fault::new(Then::Answer)]);
        assert_eq!(post(&mut script, Protocol::Http1), Draw::Fault(twice));
        assert_eq!(post(&mut script, Protocol::Http1), Draw::Fault(Fault::new(Then::Drop)));
        assert_eq!(post(&mut script, Protocol::Http1), Draw::Fault(Fault::new(Then::Answer)));
        assert_eq!(post(&mut script, Protocol::Http1), Draw::Nothing);
        assert_eq!(script.pending().len(), 1);
    }

    #[test]
    fn a_fault_of_http2_stays_until_http2_comes() {
        let mut script = script([Fault::new(Then::RefusedStream)]);
        assert_eq!(post(&mut script, Protocol::Http1), Draw::NeedsHttp2(Then::RefusedStream));
        assert_eq!(post(&mut script, Protocol::Http2), Draw::Fault(Fault::new(Then::RefusedStream)));
        assert_eq!(post(&mut script, Protocol::Http2), Draw::Nothing);
    }

    #[test]
    fn a_fault_of_the_connection_waits_for_those_before_it() {
        let mut script = script([Fault::new(Then::Drop), Fault::new(Then::TlsHandshakeFailure), Fault::new(Then::ResetConnection)]);
        assert_eq!(script.for_connection(true), None);
        assert_eq!(post(&mut script, Protocol::Http1), Draw::Fault(Fault::new(Then::Drop)));
        assert_eq!(script.for_connection(false), None);
        assert_eq!(script.for_connection(true), Some(Fault::new(Then::TlsHandshakeFailure)));
        assert_eq!(script.for_connection(false), Some(Fault::new(Then::ResetConnection)));
    }

    #[test]
    fn what_is_forever_goes_on() {
        let fault = Fault::new(Then::Drop).forever();
        let mut script = script([fault.clone()]);
        for _ in 0..3 {
            assert_eq!(post(&mut script, Protocol::Http1), Draw::Fault(fault.clone()));
        }
        script.clear();
        assert_eq!(post(&mut script, Protocol::Http1), Draw::Nothing);
    }
}
