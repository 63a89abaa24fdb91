//! Expressions: they compile or say where not, and whatever they are evaluated on, they end (libFuzzer's `-timeout` is the
//! clock) with a value or with an error in words.

use kybernis_core::cel::{Expression, Facts, Profile, RequestFacts, ResponseFacts};
use kybernis_core::json::Json;

use crate::input::{choice, some_texts};

/// The profile by letter (`r` request, `p` policy, `o` outcome, `q` probe), then expression, query, request body and answer body.
pub fn check(data: &[u8]) {
    let (kind, rest) = choice(data);
    let profile = match kind {
        b'r' => Profile::Request,
        b'p' => Profile::Policy,
        b'o' => Profile::Outcome,
        b'q' => Profile::Probe,
        _ => return,
    };
    let [source, query, body, answer] = some_texts(rest);
    match Expression::compile(source, profile) {
        Ok(expression) => evaluate(&expression, query, body, answer),
        Err(error) => {
            assert!(!error.message.is_empty());
            assert!((1..=source.split('\n').count()).contains(&error.line), "{error} lies below the expression");
            assert!(error.column >= 1 && error.position().is_some());
        }
    }
}

fn evaluate(expression: &Expression, query: &str, body: &str, answer: &str) {
    let facts = facts(query, body, answer);
    // Retries and replays ask again, and must hear the same.
    assert_eq!(outcome(expression, &facts), outcome(expression, &facts));
}

/// What the expression gives in every place where one can stand, or its error.
fn outcome(expression: &Expression, facts: &Facts) -> [String; 4] {
    [
        format!("{:?}", expression.eval_bool(facts)),
        format!("{:?}", expression.eval_string(facts)),
        format!("{:?}", expression.eval_keys(facts)),
        format!("{:?}", expression.eval_i64(facts)),
    ]
}

pub(crate) fn facts(query: &str, body: &str, answer: &str) -> Facts {
    let (body, answer) = (Json::parse(body.as_bytes()).ok(), Json::parse(answer.as_bytes()).ok());
    let headers = [("accept".to_owned(), "a".to_owned()), ("accept".to_owned(), "b".to_owned())];
    let request = RequestFacts {
        method: "POST",
        scheme: "https",
        host: "broker.example.com",
        port: 443,
        path: "/v1/orders",
        query,
        headers: &headers,
        body: body.as_ref(),
    };
    Facts::new()
        .with_request(&request)
        .with_response(&ResponseFacts { status: 200, headers: &headers, body: answer.as_ref() })
        .with_agent("trader", "trading", [("app", "trader")].into_iter())
        .with_run("run-1", false)
        .with_tool("broker-orders", "SideEffect")
        .with_attempt(2)
}
