//! Errors as `kubectl` words them: people know those, and search for them.

use std::error::Error as _;
use std::io;

use kube::core::Status;

/// The line that a person reads.
pub(super) fn told(error: &anyhow::Error, server: &str) -> String {
    let Some(kube) = error.chain().find_map(|cause| cause.downcast_ref::<kube::Error>()) else { return format!("error: {error:#}") };
    match kube {
        kube::Error::Api(status) => told_by_server(status),
        other => {
            let refused = |cause: &(dyn std::error::Error + 'static)| {
                cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
            };
            if causes(other).into_iter().any(refused) {
                return format!("The connection to the server {server} was refused - did you specify the right host or port?");
            }
            match causes(other).last() {
                Some(root) => format!("Unable to connect to the server: {root}"),
                None => format!("error: {other}"),
            }
        }
    }
}

/// What the API server said.
fn told_by_server(status: &Status) -> String {
    let Status { message, reason, code, .. } = status;
    match (reason.as_str(), code) {
        ("Unauthorized", _) | (_, 401) => format!("error: You must be logged in to the server ({message})"),
        ("", _) => format!("Error from server: {message}"),
        (reason, _) => format!("Error from server ({reason}): {message}"),
    }
}

/// From the nearest to the root.
fn causes(error: &kube::Error) -> Vec<&(dyn std::error::Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    causes
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn errors_read_as_those_of_kubectl() {
        let api = |code: u16, reason: &str, message: &str| {
            anyhow::Error::from(kube::Error::Api(Status::failure(message, reason).with_code(code).boxed()))
        };
        let io = |kind| anyhow::Error::from(kube::Error::Service(Box::new(io::Error::new(kind, "away"))));
        for (error, expect) in [
            (api(404, "NotFound", "gates \"x\" not found"), "Error from server (NotFound): gates \"x\" not found"),
            (api(401, "Unauthorized", "Unauthorized"), "error: You must be logged in to the server (Unauthorized)"),
            (api(500, "", "what"), "Error from server: what"),
            (
                io(io::ErrorKind::ConnectionRefused),
                "The connection to the server h:1 was refused - did you specify the right host or port?",
            ),
            (io(io::ErrorKind::TimedOut), "Unable to connect to the server: away"),
            (anyhow::anyhow!("inner").context("outer"), "error: outer: inner"),
        ] {
            assert_eq!(told(&error, "h:1"), expect);
        }
        let wrapped = Err::<(), _>(api(403, "Forbidden", "no")).context("reading").unwrap_err();
        assert_eq!(told(&wrapped, ""), "Error from server (Forbidden): no");
    }
}
