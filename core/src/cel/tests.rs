//! The expressions of the API as they are written there, and everything that an expression must not be able to do.

use proptest::prelude::*;

use super::*;
use crate::json::Json;

fn order() -> Json {
    Json::parse(
        br#"{"client_order_id":"c-1","payment_id":77,"qty":500,"price":190.5,"model":"gpt-4o","big":9007199254740993,
            "items":[{"id":1},{"id":2}],"nothing":null}"#,
    )
    .unwrap()
}

fn facts_with(response: Option<(u16, &str)>) -> Facts {
    let body = order();
    let headers = [("accept".to_owned(), "a".to_owned()), ("accept".to_owned(), "b".to_owned())];
    let facts = Facts::new()
        .with_request(&RequestFacts {
            method: "POST",
            scheme: "https",
            host: "broker.example.com",
            port: 443,
            path: "/v1/orders",
            query: "dry=1&note=a%20b",
            headers: &headers,
            body: Some(&body),
        })
        .with_agent("trader", "trading", [("app", "trader")].into_iter())
        .with_run("run-1", false)
        .with_tool("broker-orders", "SideEffect")
        .with_attempt(2);
    match response {
        Some((status, body)) => {
            let json = Json::parse(body.as_bytes()).unwrap();
            facts.with_response(&ResponseFacts { status, headers: &[], body: Some(&json) })
        }
        None => facts,
    }
}

fn truth(source: &str) -> Result<bool, String> {
    let expression = Expression::compile(source, Profile::Policy).map_err(|error| error.to_string())?;
    expression.eval_bool(&facts_with(None)).map_err(|error| error.message)
}

fn text(source: &str, profile: Profile, facts: &Facts) -> String {
    Expression::compile(source, profile).unwrap().eval_string(facts).unwrap()
}

#[test]
fn the_expressions_of_the_api_run_as_written() {
    let facts = facts_with(None);
    assert_eq!(text(r#""order:" + request.body.client_order_id"#, Profile::Request, &facts), "order:c-1");
    let url = r#""https://broker.example.com/v1/orders?client_order_id=" + request.body.client_order_id"#;
    assert!(text(url, Profile::Request, &facts).ends_with("=c-1"));
    assert_eq!(truth("request.body.qty * request.body.price > 10000"), Ok(true));
    assert_eq!(truth(r#"request.body.model == "gpt-4o""#), Ok(true));
    let cost = Expression::compile("request.body.qty * 10000", Profile::Policy).unwrap();
    assert_eq!(cost.eval_i64(&facts), Ok(5_000_000));
    let outcome = r#"response.status == 200 && response.body.rejected == true ? "Rejected" : "Default""#;
    assert_eq!(text(outcome, Profile::Outcome, &facts_with(Some((200, r#"{"rejected":true}"#)))), "Rejected");
    assert_eq!(text(outcome, Profile::Outcome, &facts_with(Some((200, r#"{"rejected":false}"#)))), "Default");
    let executed = Expression::compile("response.status == 200 && size(response.body.orders) > 0", Profile::Probe).unwrap();
    assert_eq!(executed.eval_bool(&facts_with(Some((200, r#"{"orders":[1]}"#)))), Ok(true));
    assert_eq!(executed.eval_bool(&facts_with(Some((200, r#"{"orders":[]}"#)))), Ok(false));
    assert!(Expression::compile(r#"tool.circuit == "Open""#, Profile::Policy).is_ok());
}

#[test]
fn loops_over_an_object_follow_its_sorted_names() {
    let sorted = ["big", "client_order_id", "items", "model", "nothing", "payment_id", "price", "qty"];
    for source in ["request.body.map(name, name)", "request.body.filter(name, true)", "[] + request.body"] {
        let names = Expression::compile(source, Profile::Request).unwrap();
        let body =
            Json::parse(br#"{"qty":1,"price":1,"payment_id":1,"nothing":1,"model":1,"items":1,"client_order_id":1,"big":1}"#).unwrap();
        let request =
            RequestFacts { method: "POST", scheme: "https", host: "a", port: 443, path: "/", query: "", headers: &[], body: Some(&body) };
        assert_eq!(names.eval_keys(&Facts::new().with_request(&request)).unwrap(), sorted, "{source}");
    }
}

#[test]
fn int_and_double_mix_and_overflow_is_an_error() {
    assert_eq!(truth("request.body.qty + 1 == 501"), Ok(true));
    assert_eq!(truth("1 + 0.5 == 1.5 && 2.5 - 1 == 1.5 && 3 / 2.0 == 1.5 && 0.5 * 4 == 2"), Ok(true));
    assert_eq!(truth("request.body.price > 190 && request.body.qty < 500.5"), Ok(true));
    assert!(truth("9223372036854775807 + 1 > 0").is_err());
}

#[test]
fn a_number_that_cannot_be_read_exactly_spoils_only_what_reads_it() {
    assert_eq!(truth("request.body.qty == 500"), Ok(true));
    assert_eq!(truth("has(request.body.big)"), Ok(true));
    for reader in ["request.body.big == 5", "request.body.big > 5", "request.body == request.body", "5 in [request.body.big]"] {
        let error = truth(reader).unwrap_err();
        assert!(error.contains("cannot be read without changing it"), "{reader}: {error}");
    }
}

#[test]
fn has_guards_and_optionals_work() {
    assert_eq!(truth("has(request.body.missing) && request.body.missing > 1"), Ok(false));
    assert_eq!(truth("request.body.?missing.orValue(3) == 3"), Ok(true));
    assert_eq!(truth("request.body[?'missing'].orValue(3) == 3"), Ok(true));
    assert_eq!(truth("request.headers['accept'] == 'a, b' && request.query.note == 'a b'"), Ok(true));
    assert_eq!(truth("request.body.missing == 1"), Err("there is no `missing` here; guard it with has()".to_owned()));
}

#[test]
fn loops_over_the_document_work() {
    assert_eq!(truth("request.body.items.all(i, i.id > 0) && request.body.items.exists(i, i.id == 2)"), Ok(true));
    assert_eq!(truth("request.body.items.map(i, i.id) == [1, 2] && request.body.items.filter(i, i.id > 1).size() == 1"), Ok(true));
    let keys = Expression::compile("request.body.items.map(i, 'o:' + string(i.id))", Profile::Request).unwrap();
    assert_eq!(keys.eval_keys(&facts_with(None)), Ok(vec!["o:1".to_owned(), "o:2".to_owned()]));
}

#[test]
fn text_functions_work() {
    assert_eq!(truth("request.path.startsWith('/v1/') && request.host.endsWith('.com') && request.host.contains('broker')"), Ok(true));
    assert_eq!(truth("request.host.matches('^broker[.]example[.]com$')"), Ok(true));
}

#[test]
fn a_when_that_is_no_boolean_says_what_came() {
    assert_eq!(truth("request.body.nothing"), Err("expected true or false, got null".to_owned()));
    assert_eq!(truth("request.body.qty"), Err("expected true or false, got an integer".to_owned()));
}

#[test]
fn what_surely_is_of_another_type_is_refused_before_it_runs() {
    let truth = "where true or false belongs";
    for (source, expect) in [
        ("1 + 1", format!("line 1, column 1: the expression gives a number {truth}")),
        ("'no'", format!("line 1, column 1: the expression gives a text {truth}")),
        ("[true]", format!("line 1, column 1: the expression gives a list {truth}")),
        ("request.path", format!("line 1, column 1: the expression gives a text {truth}")),
        ("attempt > 1 ? 'a' : 'b'", format!("line 1, column 1: the expression gives a text {truth}")),
        ("request.method == 'POST' && size(request.path)", format!("line 1, column 33: this is a number {truth}")),
        ("!request.path", format!("line 1, column 9: this is a text {truth}")),
        ("request.path - 1 > 2", "line 1, column 8: this is a text where a number belongs".to_owned()),
        ("request.path > 5", "line 1, column 14: a text is neither more nor less than a number".to_owned()),
        ("1 ? true : false", format!("line 1, column 3: before ? stands a number {truth}")),
        ("{'a': 1}", format!("line 1, column 1: the expression gives an object {truth}")),
        ("request.port in [1, request.path - 1]", "line 1, column 28: this is a text where a number belongs".to_owned()),
        ("size({'a': {'b': -'x'}}) > 0", "line 1, column 19: this is a text where a number belongs".to_owned()),
        ("{'a': !1}.a", format!("line 1, column 8: this is a number {truth}")),
        ("[!1].exists(one, one)", format!("line 1, column 3: this is a number {truth}")),
    ] {
        let refused = Expression::compile_condition(source, Profile::Policy).map(drop).unwrap_err().to_string();
        assert_eq!(refused, expect, "{source}");
    }
    for sound in [
        "request.body.qty * request.body.price > 10000",
        "request.body.qty - 1 > 0 && !request.body.dry",
        "attempt + 0.5 > 1 || request.port == 'text'",
        "request.path + request.body.name > 'a'",
        "request.body.items.exists(request, request > 1)",
        "has(request.body.x) ? request.body.x : true",
        "request.body",
    ] {
        assert!(Expression::compile_condition(sound, Profile::Policy).is_ok(), "{sound}");
    }
}

#[test]
fn a_constant_pattern_that_does_not_compile_is_refused_where_it_is_written() {
    for (source, expect) in [
        ("request.path.matches('(')", "line 1, column 22: \"(\" is no regular expression: unclosed group"),
        (
            "request.body.items.all(i,\n  i.matches('[b-a]'))",
            "line 2, column 13: \"[b-a]\" is no regular expression: invalid character class range, the start must be <= the end",
        ),
    ] {
        assert_eq!(Expression::compile(source, Profile::Request).map(drop).unwrap_err().to_string(), expect);
    }
    for sound in ["request.path.matches('^/v[12]/')", "request.path.matches(request.body.pattern)", "'('.matches(request.path)"] {
        assert!(Expression::compile(sound, Profile::Request).is_ok(), "{sound}");
    }
}

#[test]
fn a_key_that_is_null_or_empty_is_an_error() {
    let keys = |source: &str| Expression::compile(source, Profile::Request).unwrap().eval_keys(&facts_with(None));
    assert_eq!(keys("request.body.payment_id"), Ok(vec!["77".to_owned()]));
    for bad in ["request.body.nothing", "''", "[]", "['']", "request.body.price", "[request.body.nothing]"] {
        assert!(keys(bad).is_err(), "{bad}");
    }
}

#[test]
fn unknown_names_are_refused_with_place_and_proposal() {
    for (source, profile, expected) in [
        (
            "request.methd == 'POST'",
            Profile::Request,
            "line 1, column 8: `request` has no `methd`, did you mean `method`; it has method, scheme, host, port, path, query, headers, body",
        ),
        (
            "true &&\n  reqest.path == '/'",
            Profile::Request,
            "line 2, column 3: there is no `reqest` here, did you mean `request`; known are request, agent, run, tool",
        ),
        (
            "response.status == 200",
            Profile::Policy,
            "line 1, column 1: there is no `response` here; known are request, agent, run, tool, cost, attempt",
        ),
        ("request['bdy']", Profile::Request, "`request` has no `bdy`, did you mean `body`"),
        ("sizes([1]) == 1", Profile::Request, "there is no function `sizes`, did you mean `size`"),
        ("request.path.", Profile::Request, "this is no CEL expression"),
        ("", Profile::Request, "line 1, column 1: the expression is empty"),
    ] {
        let error = Expression::compile(source, profile).unwrap_err().to_string();
        assert!(error.contains(expected), "{source}: {error}");
    }
}

#[test]
fn it_is_known_whether_the_body_is_needed() {
    let reads = |source: &str| Expression::compile(source, Profile::Outcome).unwrap();
    assert!(reads("request.body.qty > 1").reads_body());
    assert!(reads("request['body'].qty > 1").reads_body());
    assert!(reads("request == request").reads_body());
    assert!(!reads("request.path == '/' && response.status == 200").reads_body());
    assert!(reads("response.body.ok == true").reads_response_body());
    assert!(!reads("response.status == 200").reads_response_body());
}

#[test]
fn a_runaway_expression_stops_by_name() {
    let numbers: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let body = Json::parse(format!("{{\"l\":[{}]}}", numbers.join(",")).as_bytes()).unwrap();
    let facts = Facts::new().with_request(&RequestFacts {
        method: "POST",
        scheme: "https",
        host: "h",
        port: 443,
        path: "/",
        query: "",
        headers: &[],
        body: Some(&body),
    });
    let once = Expression::compile("request.body.l.all(a, a >= 0)", Profile::Request).unwrap();
    assert_eq!(once.eval_bool(&facts), Ok(true));
    let mapped = Expression::compile(
        "size(request.body.l.map(a, a + 1)) == 10000 && size(request.body.l.filter(a, a > 4)) == 9995",
        Profile::Request,
    );
    assert_eq!(mapped.unwrap().eval_bool(&facts), Ok(true));
    let mapped = "request.body.l.all(a, size(request.body.l.map(b, b + a)) > 0)";
    assert_eq!(Expression::compile(mapped, Profile::Request).unwrap().eval_bool(&facts).unwrap_err().message, "fuel exhausted");
    let squared = Expression::compile("request.body.l.all(a, request.body.l.all(b, a + b >= 0))", Profile::Request).unwrap();
    assert_eq!(squared.eval_bool(&facts).unwrap_err().message, "fuel exhausted");
}

#[test]
fn what_nests_too_deep_or_is_too_long_is_refused_before_it_is_parsed() {
    for hostile in ["(", "[", "{", "!", "-", "a?b:", "((((1", "!!!!-"] {
        let source = hostile.repeat(SOURCE_MAX / hostile.len());
        assert!(Expression::compile(&source, Profile::Request).is_err(), "{hostile}");
    }
    let long = "1+".repeat(SOURCE_MAX);
    assert!(Expression::compile(&long, Profile::Request).unwrap_err().message.contains("at most 4096"));
    let chain = format!("1{}", "+1".repeat(2000));
    assert!(Expression::compile(&chain, Profile::Request).unwrap_err().message.contains("deeper than 128"));
    let loops = "[1].all(a, [1].all(b, [1].all(c, [1].all(d, true))))";
    assert!(Expression::compile(loops, Profile::Request).unwrap_err().message.contains("loops"));
}

proptest! {
    #[test]
    fn no_text_makes_the_compiler_panic(source in "\\PC{0,80}") {
        let _ = Expression::compile(&source, Profile::Outcome);
    }

    #[test]
    fn no_cel_like_text_makes_compiler_or_evaluator_panic(source in "(request|response|body|size|has|all|x|1|2\\.5|'a'|[-+*/%!?:.,()\\[\\]{}<>=&| ]){0,24}") {
        if let Ok(expression) = Expression::compile(&source, Profile::Outcome) {
            let _ = expression.eval_bool(&facts_with(Some((200, "{}"))));
        }
    }
}
