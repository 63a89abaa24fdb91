//! `send_by`, the lease, and the bytes that a raw far side received past them: none.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::far::{echoing, far_side, read_request};
use super::rig::{client, effect, generous, post, proof, target};
use crate::body::{BodyError, SendBody};
use crate::boot_clock::{BootClock, BootInstant};
use crate::permit::{Allowed, Granted, Permit};
use crate::target::Scheme;
use crate::upstream::{Doubt, NotSent, SendFailure};

const START: BootInstant = BootInstant::from_nanos(1_000_000_000_000);
/// Far more than a refusal takes; what waits for an answer instead must fail and not hang.
const PATIENCE: Duration = Duration::from_secs(10);

type Sender = mpsc::UnboundedSender<Result<Frame<Bytes>, BodyError>>;

/// A body that comes as the test sends it.
fn dictated() -> (Sender, SendBody) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let body = StreamBody::new(UnboundedReceiverStream::new(receiver));
    (sender, SendBody::boxed(body))
}

fn dictate(sender: &Sender, text: &'static str) {
    let frame = Frame::data(Bytes::from_static(text.as_bytes()));
    sender.send(Ok(frame)).unwrap();
}

/// A far side that keeps every byte it gets, and answers once it has seen `until`.
async fn keeping(until: &'static str) -> (std::net::SocketAddr, Arc<Mutex<String>>) {
    let kept = Arc::new(Mutex::new(String::new()));
    let log = Arc::clone(&kept);
    let far = far_side(move |_, mut stream| {
        let log = Arc::clone(&log);
        async move {
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                let seen = {
                    let mut log = log.lock().unwrap();
                    log.push_str(&String::from_utf8_lossy(&buffer[..read]));
                    log.contains(until)
                };
                if seen {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    let _ = stream.write_all(answer).await;
                }
            }
        }
    })
    .await;
    (far, kept)
}

async fn until(condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    within_patience(holds).await;
}

async fn within_patience<T>(outcome: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, outcome).await.unwrap()
}

#[tokio::test]
async fn past_send_by_no_first_byte_is_written() {
    let (plain, kept) = keeping("never").await;
    let (http2, count) = echoing(&[b"h2"]).await;
    for to in [target(plain, Scheme::Http), target(http2, Scheme::Https)] {
        let clock = BootClock::manual(START);
        let client = client(&clock);
        let (_renew, terms) = generous(&clock);
        clock.advance(Duration::from_millis(10_001));
        let permit = Permit::effect(Granted::by_ledger(), terms);
        let sending = client.send(permit, post(SendBody::whole("buy")), &to);
        let sent = tokio::time::timeout(PATIENCE, sending).await;
        assert!(matches!(sent, Ok(Err(_))), "it was written: {sent:?}");
        let Ok(Err(failed)) = sent else { return };
        assert!(matches!(proof(&failed), NotSent::DeadlineBeforeFirstByte), "{failed}");
    }
    assert_eq!(*kept.lock().unwrap(), "");
    assert_eq!(*count.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_lease_that_is_lost_stops_the_upload_two_seconds_before_its_end() {
    let (far, kept) = keeping("never").await;
    let clock = BootClock::manual(START);
    let (renew, terms) = generous(&clock);
    let permit = Permit::effect(Granted::by_ledger(), terms);
    let (sender, body) = dictated();
    let to = target(far, Scheme::Http);
    let client = client(&clock);
    let sent = tokio::spawn(async move { client.send(permit, post(body), &to).await });
    dictate(&sender, "first");
    until(|| kept.lock().unwrap().contains("first")).await;

    // Past send_by, within the lease.
    clock.advance(Duration::from_secs(20));
    dictate(&sender, "second");
    until(|| kept.lock().unwrap().contains("second")).await;

    // Past the first lease, within its renewal.
    renew.send_replace(START.after(Duration::from_secs(60)));
    clock.advance(Duration::from_secs(20));
    dictate(&sender, "third");
    until(|| kept.lock().unwrap().contains("third")).await;

    clock.advance(Duration::from_secs(18) + Duration::from_millis(1));
    dictate(&sender, "fourth");
    let failed = within_patience(sent).await.unwrap().unwrap_err();
    assert!(matches!(failed, SendFailure::Doubt(Doubt::LeaseLost)), "{failed}");
    assert!(!kept.lock().unwrap().contains("fourth"));
}

#[tokio::test]
async fn once_written_an_effect_may_wait_for_its_answer_past_every_deadline() {
    let clock = BootClock::manual(START);
    let slow = clock.clone();
    let far = far_side(move |_, mut stream| {
        let clock = slow.clone();
        async move {
            while read_request(&mut stream).await.is_ok() {
                clock.advance(Duration::from_secs(600));
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    let client = client(&clock);
    let (_renew, terms) = generous(&clock);
    let permit = Permit::effect(Granted::by_ledger(), terms);
    let to = target(far, Scheme::Http);
    let answer = client.send(permit, post(SendBody::whole("buy")), &to).await.unwrap();
    assert_eq!(answer.body.collect().await.unwrap().to_bytes(), "ok");
    // The connection goes on: the finished effect's deadlines govern it no more.
    let read = http::Request::get("/").body(SendBody::empty()).unwrap();
    let permit = Permit::read(Allowed::by_policy());
    assert!(client.send(permit, read, &to).await.unwrap().reused);
}

#[tokio::test]
async fn on_http2_the_earliest_deadline_of_an_unwritten_effect_governs_the_connection() {
    let clock = BootClock::manual(START);
    let client = client(&clock);
    let (far, count) = echoing(&[b"h2"]).await;
    let to = target(far, Scheme::Https);
    // Opens the connection, and is done with it.
    let first = client.send(effect(&clock), post(SendBody::whole("a")), &to).await.unwrap();
    first.body.collect().await.unwrap();
    until(|| *count.lock().unwrap() == 1).await;

    let (_renew, terms) = generous(&clock);
    let permit = Permit::effect(Granted::by_ledger(), terms);
    let (sender, body) = dictated();
    let (uploader, target_of_upload) = (client.clone(), to.clone());
    let upload = tokio::spawn(async move { uploader.send(permit, post(body), &target_of_upload).await });
    dictate(&sender, "part");
    until(|| *count.lock().unwrap() == 2).await;

    // A read shares the connection while the lease holds; past it the connection fails at the next byte, and the
    // read, which was sent on it, moves to another.
    clock.advance(Duration::from_secs(28) + Duration::from_millis(1));
    let read = http::Request::get("/").body(SendBody::empty()).unwrap();
    let answer = within_patience(client.send(Permit::read(Allowed::by_policy()), read, &to)).await.unwrap();
    assert!(!answer.reused);
    let failed = within_patience(upload).await.unwrap().unwrap_err();
    assert!(matches!(failed, SendFailure::Doubt(Doubt::LeaseLost)), "{failed}");
    drop(sender);
}
