//! RFC 8785's examples, the numbers that doubles cannot hold, and the ambiguities that are refused.

use proptest::prelude::*;

use super::*;

fn canonical(text: &str) -> String {
    String::from_utf8(Json::parse(text.as_bytes()).unwrap().canonical(&[])).unwrap()
}

#[test]
fn rfc_8785_section_3_2_2() {
    let input = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
        "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
    // The first number has more digits than its double's shortest decimal, so here it stands as itself.
    let expected = "{\"literals\":[null,true,false],\"numbers\":[33333333333333329e-8,1e+30,4.5,0.002,1e-27],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
    assert_eq!(canonical(input), expected);
}

#[test]
fn rfc_8785_section_3_2_3_sorts_by_utf_16() {
    let input = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
    let names: Vec<String> = match Json::parse(canonical(input).as_bytes()).unwrap() {
        Json::Object(members) => members.into_iter().map(|(name, _)| name).collect(),
        other => panic!("{other:?}"),
    };
    assert_eq!(names, ["\r", "1", "\u{80}", "\u{f6}", "\u{20ac}", "\u{1f600}", "\u{fb33}"]);
}

#[test]
fn ecmascript_numbers_of_rfc_8785_appendix_b() {
    for (text, expected) in [
        ("0", "0"),
        ("-0", "0"),
        ("5e-324", "5e-324"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("9007199254740992", "9007199254740992"),
        ("295147905179352830000", "295147905179352830000"),
        ("1e21", "1e+21"),
        ("999999999999999900000", "999999999999999900000"),
        ("1e-6", "0.000001"),
        ("1e-7", "1e-7"),
        ("0.1", "0.1"),
        ("-123.45", "-123.45"),
        ("1.0", "1"),
        ("100e-2", "1"),
    ] {
        assert_eq!(canonical(text), expected, "{text}");
    }
}

#[test]
fn a_number_that_its_double_does_not_hold_stands_as_its_own_decimal() {
    assert_ne!(canonical("9007199254740993"), canonical("9007199254740992"));
    assert_eq!(canonical("9007199254740993"), "9007199254740993e0");
    assert_eq!(canonical("9007199254740993.00"), "9007199254740993e0");
    assert_eq!(canonical("1e400"), "1e400");
    assert_eq!(canonical("0.1000000000000000000001"), "1000000000000000000001e-22");
    let Json::Number(number) = Json::parse(b"9007199254740993").unwrap() else { panic!("no number") };
    assert_eq!((number.as_f64(), number.as_i64()), (None, None));
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    for (text, rule) in [
        (r#"{"a":1,"b":{"x":1,"x":2}}"#, "the member /b/x occurs twice at byte 18"),
        (r#"{"a":1,"\u0061":2}"#, "the member /a occurs twice at byte 7"),
        (r#""\ud800""#, "a lone surrogate at byte 7"),
        (r#""\udc00""#, "a lone surrogate at byte 7"),
        ("{} x", "the document ends before this at byte 3"),
        ("01", "the document ends before this at byte 1"),
        ("1.", "expected a digit at byte 2"),
        ("[1,]", "expected a JSON value at byte 3"),
        ("\u{feff}{}", "expected a JSON value at byte 0"),
        ("\"\n\"", "a control character in a string is written as an escape at byte 1"),
        ("NaN", "expected a JSON value at byte 0"),
        ("", "expected a JSON value at byte 0"),
    ] {
        assert_eq!(Json::parse(text.as_bytes()).unwrap_err().to_string(), rule, "{text}");
    }
    assert_eq!(Json::parse(b"\"\xff\"").unwrap_err().to_string(), "the body is not UTF-8 at byte 1");
}

#[test]
fn nesting_is_bounded() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(Json::parse(deep(DEPTH_MAX).as_bytes()).is_ok());
    assert!(Json::parse(deep(DEPTH_MAX + 2).as_bytes()).unwrap_err().rule.contains("deeper than 128"));
}

#[test]
fn volatile_pointers_are_left_out_and_nothing_else() {
    let json = Json::parse(br#"{"sent_at":1,"qty":5,"items":[{"id":1,"at":2},{"id":3,"at":4}],"a/b":{"~":1}}"#).unwrap();
    let without = |pointers: &[&str]| {
        let pointers: Vec<Pointer> = pointers.iter().map(|text| Pointer::parse(text).unwrap()).collect();
        String::from_utf8(json.canonical(&pointers)).unwrap()
    };
    assert_eq!(without(&["/sent_at", "/items/0/at", "/a~1b/~0"]), r#"{"a/b":{},"items":[{"id":1},{"at":4,"id":3}],"qty":5}"#);
    assert_eq!(without(&["/nowhere/else"]), String::from_utf8(json.canonical(&[])).unwrap());
}

#[test]
fn pointers_follow_rfc_6901() {
    assert_eq!(Pointer::parse("sent_at"), Err(PointerError::Start));
    assert_eq!(Pointer::parse("/a~2"), Err(PointerError::Escape));
    assert_eq!(Pointer::parse("/a~1b/~0c").unwrap().to_string(), "/a~1b/~0c");
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_filter_map("finite", |n| serde_json::Number::from_f64(n).map(Into::into)),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(any::<String>(), inner, 0..6).prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn canonical_form_is_a_fixed_point(value in any_json()) {
        let once = Json::parse(value.to_string().as_bytes()).unwrap().canonical(&[]);
        prop_assert_eq!(Json::parse(&once).unwrap().canonical(&[]), once);
    }

    #[test]
    fn white_space_does_not_count(value in any_json()) {
        let dense = Json::parse(value.to_string().as_bytes()).unwrap().canonical(&[]);
        let airy = serde_json::to_string_pretty(&value).unwrap();
        prop_assert_eq!(Json::parse(airy.as_bytes()).unwrap().canonical(&[]), dense);
    }

    #[test]
    fn what_is_accepted_is_what_others_accept_too(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if Json::parse(&bytes).is_ok() {
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok());
        }
    }

    #[test]
    fn json_like_text_never_panics(text in "[\\[\\]{}\":,\\\\ue0-9 .+-]{0,64}") {
        let _ = Json::parse(text.as_bytes());
    }
}
