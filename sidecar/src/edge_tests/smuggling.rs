//! Smuggling shapes, judged by the bytes that a raw far side received: none.

use std::sync::{Arc, Mutex};

use tokio::io::AsyncReadExt as _;

use super::far::far_side;
use super::rig::{Rig, exchange};

#[tokio::test]
async fn no_byte_of_an_ambiguous_message_leaves() {
    let rig = Rig::start().await;
    let received = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&received);
    let far = far_side(move |_, mut stream| {
        let log = Arc::clone(&log);
        async move {
            let mut bytes = Vec::new();
            while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {}
            log.lock().unwrap().extend(bytes);
        }
    })
    .await;
    let host = format!("localhost:{}", far.port());
    let smuggled = format!("GET http://{host}/smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for shape in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        "X: 1\r\n Content-Length: 5\r\n\r\n",
        "X: 1\nContent-Length: 5\r\n\r\nabcde",
        "Host: other.test\r\n\r\n",
        "Content-Length : 5\r\n\r\nabcde",
        "X: a\rb\r\n\r\n",
    ] {
        let mut agent = rig.connect().await;
        let request = format!("POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\n{shape}{smuggled}");
        let answer = exchange(&mut agent, &request, "").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{shape:?}: {answer}");
        assert!(answer.contains("application/problem+json"), "{shape:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{shape:?}: {answer}");
    }
    let mut fields = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n");
    for number in 0..10_000 {
        fields.push_str(&format!("X-{number}: 1\r\n"));
    }
    let mut agent = rig.connect().await;
    let answer = exchange(&mut agent, &fields, "}").await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(received.lock().unwrap().len(), 0);
}
