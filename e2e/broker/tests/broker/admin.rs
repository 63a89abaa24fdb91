//! The admin port and the process, as the demo uses them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::peer::{ORDER, answer, connect, exchange, post};

fn admin(at: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut stream = connect(at.parse().unwrap());
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(head.as_bytes()).unwrap();
    let (status, body) = match method {
        "GET" | "POST" if path != "/release" && path != "/reset" => answer(&mut stream),
        _ => (BufReader::new(stream).lines().next().unwrap().unwrap(), "null".to_owned()),
    };
    (status.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

#[test]
fn the_process_prints_its_addresses_and_obeys_its_admin_port() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_kybernis-broker"))
        .args(["--idempotency", "on", "--ca-out"])
        .arg(folder.path().join("ca.pem"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let printed: Value = serde_json::from_str(&line).unwrap();
    let at = printed["admin"].as_str().unwrap();
    let http = printed["http"].as_str().unwrap().parse().unwrap();
    assert!(std::fs::read_to_string(printed["ca"].as_str().unwrap()).unwrap().starts_with("-----BEGIN CERTIFICATE-----"));

    let script = json!([{"then": "drop", "execute": true, "on": {"method": "POST", "path": "/v1/orders"}}]).to_string();
    assert_eq!(admin(at, "POST", "/faults", &script).0, 200);
    assert_eq!(admin(at, "GET", "/faults", "").1.as_array().unwrap().len(), 1);
    let order = post("/v1/orders", ORDER, "Idempotency-Key: k\r\nConnection: close\r\n");
    assert_eq!(exchange(http, &order).0, "");
    assert!(exchange(http, &order).0.contains("\r\nidempotent-replayed: true\r\n"));
    assert_eq!(admin(at, "GET", "/executed", "").1[0]["subject"], "c-1");
    assert_eq!(admin(at, "GET", "/fired", "").1[0]["fault"]["then"], "drop");
    assert_eq!(admin(at, "GET", "/requests", "").1[1]["body"], ORDER);

    assert_eq!(admin(at, "PUT", "/idempotency", r#"{"on": false}"#).0, 204);
    assert!(exchange(http, &order).0.contains("ord-2"));
    let wrong = json!([{"then": "close_idle", "execute": true}]).to_string();
    let (status, problem) = admin(at, "POST", "/faults", &wrong);
    assert!(status == 400 && problem["error"].as_str().unwrap().contains("cannot execute"), "{problem}");
    assert_eq!(admin(at, "POST", "/faults", r#"[{"then": "explode"}]"#).0, 422);
    assert_eq!(admin(at, "POST", "/faults", &script).0, 200);
    assert_eq!(admin(at, "DELETE", "/faults", "").0, 204);
    assert_eq!(admin(at, "POST", "/reset", "").0, 204);
    assert_eq!(admin(at, "GET", "/executed", "").1, json!([]));

    process.kill().unwrap();
    process.wait().unwrap();
}
