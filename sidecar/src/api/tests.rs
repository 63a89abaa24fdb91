use std::net::SocketAddr;

use kybernis_core::ids::BootId;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::control::fake::{Ca, FakeLedger, Place};
use crate::resolve::SystemResolver;

struct Rig {
    place: Place,
    ca: Ca,
    api: SocketAddr,
    closing: CancellationToken,
    served: Api,
}

impl Rig {
    /// Before a ledger that is not there yet.
    async fn start() -> Self {
        let (place, ca) = (Place::new(), Ca::new());
        let resolver = Arc::new(SystemResolver::new(None).unwrap());
        let control = Control::start(&place.settings(&ca.pem), resolver, BootId::new("boot").unwrap()).unwrap();
        let closing = CancellationToken::new();
        let served = Api::new(control, closing.clone());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let api = listener.local_addr().unwrap();
        served.listen(listener).unwrap();
        Self { place, ca, api, closing, served }
    }

    fn ledger(&self) -> FakeLedger {
        self.place.ledger(&self.ca)
    }

    /// The whole answer to a request whose head ends here and whose connection does, too.
    async fn asked(&self, head: &str, body: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.api).await.unwrap();
        stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// A refusal's status, code and detail.
    async fn refused(&self, head: &str, body: &str) -> (u64, String, String) {
        let (answer, problem) = self.asked(head, body).await;
        assert!(answer.contains("content-type: application/problem+json"), "{answer}");
        let problem: Value = serde_json::from_str(&problem).unwrap();
        let text = |member: &str| problem[member].as_str().unwrap().to_owned();
        assert!(answer.starts_with(&format!("HTTP/1.1 {} ", problem["status"])), "{answer}");
        (problem["status"].as_u64().unwrap(), text("code"), text("detail"))
    }
}

#[tokio::test]
async fn the_ledger_hears_the_question_and_who_the_pod_is_but_nothing_that_its_caller_says_of_itself() {
    let rig = Rig::start().await;
    let _ledger = rig.ledger();
    let head = "POST /infra/decide?a=b%2Fc HTTP/1.1\r\nHost: 127.0.0.1:7410\r\nContent-Type: application/json\r\nAccept: text/x\r\n\
                Authorization: Bearer admin\r\nX-Kyb-Role: admin\r\nCookie: a=b\r\nForwarded: for=x\r\nContent-Length: 2";
    let (answer, echo) = rig.asked(head, "{}").await;
    let mut echo: Value = serde_json::from_str(&echo).unwrap();
    echo["headers"].as_object_mut().unwrap().remove("user-agent");
    let headers = json!({"content-type": "application/json", "accept": "text/x", "content-length": "2", "authorization": "Bearer token"});
    let uri = format!("https://{}/infra/decide?a=b%2Fc", rig.place.address());
    assert_eq!(echo, json!({"method": "POST", "uri": uri, "headers": headers, "body": "{}"}));
    let told = |answer: &str| {
        let names = answer.lines().skip(1).filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_owned());
        names.filter(|name| !["date", "connection", "content-length"].contains(&name.as_str())).collect::<Vec<_>>()
    };
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(told(&answer), ["content-type", "retry-after"]);
    let (answer, _) = rig.asked("GET /infra/later HTTP/1.1\r\nHost: localhost", "").await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("retry-after: 7"), "{answer}");
}

#[tokio::test]
async fn what_is_not_the_ledger_s_api_leads_nowhere() {
    let rig = Rig::start().await;
    let _ledger = rig.ledger();
    for line in [
        "GET / HTTP/1.1",
        "GET /infra HTTP/1.1",
        "POST /kybernis.v1.Ledger/Decide HTTP/1.1",
        "GET /infra/../kybernis.v1.Ledger/Decide HTTP/1.1",
        "GET /infra/%2E%2e/metrics HTTP/1.1",
        "GET http://far.test/infra/runs HTTP/1.1",
        "CONNECT far.test:443 HTTP/1.1",
        "CONNECT 127.0.0.1:7410 HTTP/1.1",
    ] {
        let (status, code, detail) = rig.refused(&format!("{line}\r\nHost: 127.0.0.1"), "").await;
        assert_eq!((status, code.as_str()), (404, "not_found"), "{line}");
        assert!(detail.contains("/infra/"), "{detail}");
    }
    for fields in ["Host: 127.0.0.1\r\nOrigin: http://127.0.0.1:7410", "Host: page.test:7410", "X: y"] {
        let (status, code, _) = rig.refused(&format!("GET /infra/runs HTTP/1.1\r\n{fields}"), "").await;
        assert_eq!((status, code.as_str()), (403, "forbidden"), "{fields}");
    }
    let (answer, _) = rig.asked("GET /infra/runs HTTP/1.1\r\nHost: [::1]:7410", "").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_question_has_a_bound() {
    let rig = Rig::start().await;
    let _ledger = rig.ledger();
    let head = |length: usize| format!("POST /infra/decide HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}");
    let (answer, _) = rig.asked(&head(BODY_MAX), &"x".repeat(BODY_MAX)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let (status, code, detail) = rig.refused(&head(BODY_MAX + 1), &"x".repeat(BODY_MAX + 1)).await;
    assert_eq!((status, code.as_str()), (413, "body_too_large_for_policy"));
    assert!(detail.contains("65536 bytes"), "{detail}");
}

#[tokio::test]
async fn a_rotated_token_is_taken_up_within_the_same_question() {
    let rig = Rig::start().await;
    let ledger = rig.ledger();
    assert!(rig.asked("GET /infra/runs HTTP/1.1\r\nHost: 127.0.0.1", "").await.0.starts_with("HTTP/1.1 200 "));
    *ledger.told.token.lock().unwrap() = "rotated".to_owned();
    std::fs::write(rig.place.path().join("token"), "rotated").unwrap();
    let (_, echo) = rig.asked("GET /infra/runs HTTP/1.1\r\nHost: 127.0.0.1", "").await;
    assert_eq!(serde_json::from_str::<Value>(&echo).unwrap()["headers"]["authorization"], "Bearer rotated");
}

#[tokio::test(start_paused = true)]
async fn a_question_is_held_for_a_ledger_that_is_away_and_then_refused() {
    let rig = Rig::start().await;
    let began = Instant::now();
    let (status, code, _) = rig.refused("POST /infra/decide HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0", "").await;
    assert_eq!((status, code.as_str()), (503, "ledger_unavailable"));
    assert!(began.elapsed() > HOLD / 2 && began.elapsed() <= HOLD, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_question_under_way_is_answered_before_the_port_is_closed() {
    let rig = Rig::start().await;
    let mut stream = TcpStream::connect(rig.api).await.unwrap();
    stream.write_all(b"GET /infra/runs HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0];
    // It waits for the ledger.
    tokio::select! {
        biased;
        read = stream.read(&mut first) => panic!("{read:?}"),
        () = tokio::task::yield_now() => {}
    }
    rig.closing.cancel();
    let _ledger = rig.ledger();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    rig.served.drained().await;
}
