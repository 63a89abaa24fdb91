use std::time::Duration;

use super::fake::{Ca, Place};
use super::*;
use crate::resolve::SystemResolver;

fn start(settings: &Settings) -> Result<Control, ControlError> {
    Control::start(settings, Arc::new(SystemResolver::new(None).unwrap()), BootId::new("boot").unwrap())
}

/// Asks until the answer is the expected one.
async fn until<T>(control: &Control, expected: impl Fn(Result<Option<Refuse>, CallError>) -> Option<T>) -> T {
    let run = RunId::new("run").unwrap();
    let asking = async {
        loop {
            if let Some(expected) = expected(control.enter_run(&run).await) {
                return expected;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.expect("the answer never was the expected one")
}

#[tokio::test]
async fn each_connection_trusts_whom_the_ca_file_names_then() {
    let (old, new, place) = (Ca::new(), Ca::new(), Place::new());
    let settings = place.settings(&old.pem);
    let first = place.ledger(&old);
    let control = start(&settings).unwrap();
    control.ready().await;
    drop(first);

    let _second = place.ledger(&new);
    let away = |part: &'static str| {
        move |answer| match answer {
            Err(CallError::Away(reason)) => reason.contains(part).then_some(()),
            other => panic!("{other:?}"),
        }
    };
    until(&control, away("invalid peer certificate")).await;
    std::fs::write(&settings.ca, "").unwrap();
    until(&control, away("ca.pem: no certificate in it")).await;
    std::fs::remove_file(&settings.ca).unwrap();
    until(&control, away("ca.pem: not a readable PEM file")).await;
    // The ledger may have either while it changes them.
    std::fs::write(&settings.ca, old.pem + &new.pem).unwrap();
    until(&control, Result::ok).await;
}

#[tokio::test]
async fn what_can_never_be_a_ledger_is_said_at_the_start() {
    let (ca, place) = (Ca::new(), Place::new());
    let check = |spoil: &dyn Fn(&mut Settings), expect: &str| {
        let mut settings = place.settings(&ca.pem);
        spoil(&mut settings);
        let error = start(&settings).expect_err("it started");
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(format!("{error}: {source}").contains(expect), "{error}: {source}");
    };
    let empty = place.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    check(&|settings| settings.address = "http://127.0.0.1:1".to_owned(), "https://HOST:PORT");
    check(&|settings| settings.server_name = "no name".to_owned(), "no name");
    check(&|settings| settings.ca = "/nowhere/ca.pem".into(), "/nowhere/ca.pem: not a readable PEM file");
    check(&|settings| settings.ca.clone_from(&empty), "no certificate in it");
    check(&|settings| settings.token = "/nowhere/token".into(), "/nowhere/token");
}
