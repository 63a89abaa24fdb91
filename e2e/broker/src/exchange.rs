//! The business itself, as naive as many a real one: every order that is read is executed, and asking twice buys twice,
//! unless idempotency keys were switched on.

use std::collections::HashMap;

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::journal::{Executed, Kind, latin1, now_ms};
use crate::message::{Answer, Reply, Request};

/// Events of one stream at most.
const EVENTS_MAX: u32 = 10_000;
/// RFC 6455, 1.3.
const WEBSOCKET_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Orders, refunds, and the answers that idempotency keys remember.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    pub(crate) executed: Vec<Executed>,
    pub(crate) honours_keys: bool,
    answered: HashMap<String, (Bytes, Answer)>,
    drawn: u64,
}

impl Exchange {
    /// Starts over with empty books.
    pub(crate) fn clear(&mut self) {
        *self = Self { honours_keys: self.honours_keys, ..Self::default() };
    }

    /// Answers `request`. Where `execute` is false the answer is the same, and nothing is done.
    pub(crate) fn answer(&mut self, request: &Request, execute: bool) -> Reply {
        let segments: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        let reply = match (&request.method, segments.as_slice()) {
            (_, ["healthz"]) => Answer::json(StatusCode::OK, &json!({"status": "ok"})),
            _ if request.header("authorization").is_none() => {
                Answer::error(StatusCode::UNAUTHORIZED, "Authorization is missing").with(header::WWW_AUTHENTICATE, "Bearer")
            }
            (&Method::POST, ["v1", "orders"]) => self.once(request, execute, Self::order),
            (&Method::POST, ["v1", "refunds"]) => self.once(request, execute, Self::refund),
            (&Method::GET | &Method::HEAD, ["v1", "orders"]) => self.orders(request.query("client_order_id")),
            (&Method::GET | &Method::HEAD, ["v1", "orders", id]) => self.order_by_id(id),
            (&Method::GET | &Method::HEAD, ["v1", "quotes", symbol]) => {
                Answer::json(StatusCode::OK, &json!({"symbol": symbol, "price": 190.5, "currency": "USD"}))
            }
            (&Method::GET, ["v1", "stream"]) => {
                let number = |name, otherwise| request.query(name).and_then(|n| n.parse::<u32>().ok()).unwrap_or(otherwise);
                return Reply::Events { count: number("events", 3).min(EVENTS_MAX), interval_ms: number("interval_ms", 10).into() };
            }
            (&Method::GET, ["v1", "ws"]) => match websocket_accept(request) {
                Some(accept) => return Reply::WebSocket { accept },
                None => Answer::error(StatusCode::UPGRADE_REQUIRED, "a WebSocket handshake over HTTP/1.1 is needed")
                    .with(header::UPGRADE, "websocket"),
            },
            (_, ["v1", "echo"]) => echo(request),
            (_, ["v1", "orders" | "refunds" | "quotes" | "stream" | "ws", ..]) => {
                Answer::error(StatusCode::METHOD_NOT_ALLOWED, "no such method here")
            }
            _ => Answer::error(StatusCode::NOT_FOUND, "no such endpoint"),
        };
        Reply::Whole(reply)
    }

    /// Where keys are honoured: the same key executes once and gets the first answer.
    fn once(&mut self, request: &Request, execute: bool, act: fn(&mut Self, &Request, &Value, bool) -> Answer) -> Answer {
        let key = request.idempotency_key().filter(|_| self.honours_keys);
        if let Some((body, first)) = key.as_ref().and_then(|key| self.answered.get(key)) {
            if *body != request.body {
                return Answer::error(StatusCode::UNPROCESSABLE_ENTITY, "this Idempotency-Key came with another body before");
            }
            return first.clone().with(header::HeaderName::from_static("idempotent-replayed"), "true");
        }
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return Answer::error(StatusCode::BAD_REQUEST, "the body is not JSON");
        };
        let answer = act(self, request, &body, execute);
        if let Some(key) = key.filter(|_| execute && answer.status.is_success()) {
            self.answered.insert(key, (request.body.clone(), answer.clone()));
        }
        answer
    }

    fn order(&mut self, request: &Request, body: &Value, execute: bool) -> Answer {
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        let (Some(subject), Some(symbol), Some(side)) = (text("client_order_id"), text("symbol"), text("side")) else {
            return Answer::error(StatusCode::BAD_REQUEST, "client_order_id, symbol and side must be there, as strings");
        };
        let (Some(qty), Some(price)) = (body.get("qty").filter(|v| v.is_number()), body.get("price").filter(|v| v.is_number())) else {
            return Answer::error(StatusCode::BAD_REQUEST, "qty and price must be there, as numbers");
        };
        let id = self.next_id("ord");
        let answer = json!({"order_id": id, "client_order_id": subject, "status": "accepted",
            "symbol": symbol, "side": side, "qty": qty, "price": price});
        if execute {
            self.record(request, Kind::Order, id, subject.to_owned(), body);
        }
        Answer::json(StatusCode::CREATED, &answer)
    }

    fn refund(&mut self, request: &Request, body: &Value, execute: bool) -> Answer {
        let payment = body.get("payment_id").and_then(Value::as_str);
        let (Some(payment), Some(amount)) = (payment, body.get("amount").filter(|v| v.is_number() || v.is_string())) else {
            return Answer::error(StatusCode::BAD_REQUEST, "payment_id and amount must be there");
        };
        let id = self.next_id("ref");
        let answer = json!({"refund_id": id, "payment_id": payment, "amount": amount, "status": "accepted"});
        if execute {
            self.record(request, Kind::Refund, id, payment.to_owned(), body);
        }
        Answer::json(StatusCode::CREATED, &answer)
    }

    fn orders(&self, client_order_id: Option<&str>) -> Answer {
        let wanted = |order: &&Executed| order.kind == Kind::Order && client_order_id.is_none_or(|id| id == order.subject);
        let orders: Vec<Value> = self.executed.iter().filter(wanted).map(shown).collect();
        Answer::json(StatusCode::OK, &json!({ "orders": orders }))
    }

    fn order_by_id(&self, id: &str) -> Answer {
        match self.executed.iter().find(|order| order.kind == Kind::Order && order.id == id) {
            Some(order) => Answer::json(StatusCode::OK, &shown(order)),
            None => Answer::error(StatusCode::NOT_FOUND, "no such order"),
        }
    }

    fn next_id(&mut self, prefix: &str) -> String {
        self.drawn += 1;
        format!("{prefix}-{}", self.drawn)
    }

    fn record(&mut self, request: &Request, kind: Kind, id: String, subject: String, body: &Value) {
        self.executed.push(Executed {
            seq: self.executed.len() as u64 + 1,
            kind,
            id,
            subject,
            idempotency_key: request.idempotency_key(),
            body: body.clone(),
            at_ms: now_ms(),
            connection: request.connection,
            protocol: request.protocol,
        });
    }
}

fn shown(order: &Executed) -> Value {
    let mut shown = order.body.clone();
    if let Some(members) = shown.as_object_mut() {
        members.insert("order_id".into(), order.id.clone().into());
        members.insert("status".into(), "accepted".into());
    }
    shown
}

fn echo(request: &Request) -> Answer {
    let headers: Vec<Value> = request.headers.iter().map(|(name, value)| json!([name.as_str(), latin1(value.as_bytes())])).collect();
    let echoed = json!({"method": request.method.as_str(), "path": request.path, "query": request.query, "headers": headers,
        "protocol": request.protocol, "body": latin1(&request.body)});
    Answer::json(StatusCode::OK, &echoed)
}

fn websocket_accept(request: &Request) -> Option<String> {
    let upgrades = request.header("upgrade")?.eq_ignore_ascii_case("websocket");
    let key = request.header("sec-websocket-key").filter(|_| upgrades)?;
    // SHA-1 is what RFC 6455 prescribes; it protects nothing here.
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{WEBSOCKET_GUID}").as_bytes());
    Some(base64::engine::general_purpose::STANDARD.encode(digest))
}
