//! A run as a waterfall: each span at its place in time, with how it ended, what policy said, and what it was an attempt of.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use time::OffsetDateTime;

use super::table::{instant, printable, text};

/// Where nothing says how wide the terminal is.
const WIDTH: usize = 120;
/// Names longer than this are cut.
const NAME_MAX: usize = 44;
/// Bars narrower than this say nothing.
const BAR_MIN: usize = 12;
/// What stands beside name and bar takes about this much.
const ASIDE: usize = 52;

/// One span, or one fact that is no span.
#[derive(Debug, Default)]
struct Line {
    from: Option<OffsetDateTime>,
    to: Option<OffsetDateTime>,
    latency_ms: Option<u64>,
    name: String,
    /// Status, verdict and the rest.
    notes: Vec<String>,
    is_span: bool,
}

/// How wide the terminal is.
pub(crate) fn width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let window = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    columns.or_else(window).filter(|columns| *columns >= 40).unwrap_or(WIDTH)
}

/// The whole of it.
pub(crate) fn render(run: &Value, events: &[Value], width: usize) -> String {
    let mut out = String::new();
    let named = if run.get("explicit") == Some(&Value::Bool(true)) { "explicit" } else { "implicit" };
    let _ = writeln!(out, "run {}  agent {}  {named}  began {}", text(run, "run_id"), text(run, "agent"), text(run, "started_at"));
    let count = |member: &str| text(run, member);
    let _ = writeln!(
        out,
        "calls {}  effects {}  replayed {}  refused {}  in doubt {}  events {}\n",
        count("calls"),
        count("effects"),
        count("replayed"),
        count("refused"),
        count("in_doubt"),
        count("events")
    );
    let lines = lines(events);
    let begin = lines.iter().filter_map(|line| line.from).min();
    let end = lines.iter().filter_map(|line| line.to.or(line.from)).max();
    let (Some(begin), Some(end)) = (begin, end) else { return out };
    let whole = (end - begin).whole_milliseconds().max(1);
    let names = lines.iter().map(|line| line.name.chars().count()).max().unwrap_or(0).min(NAME_MAX);
    let bar = width.saturating_sub(names + ASIDE).max(BAR_MIN);
    for line in &lines {
        let name: String = line.name.chars().take(names).collect();
        let at = line.from.map_or(0, |from| (from - begin).whole_milliseconds());
        let took = line.latency_ms.map_or(String::new(), |ms| format!("{ms} ms"));
        let drawn = draw(line, at, whole, bar);
        let _ =
            writeln!(out, "{:>9}  {name:<names$}  {drawn}  {took:>9}  {}", format!("+{:.3}s", at as f64 / 1000.0), line.notes.join(" "));
    }
    out
}

fn draw(line: &Line, at: i128, whole: i128, bar: usize) -> String {
    let place = |ms: i128| usize::try_from(ms.clamp(0, whole) * bar as i128 / whole).unwrap_or(0).min(bar - 1);
    let first = place(at);
    let took = match (line.from, line.to) {
        (Some(from), Some(to)) => (to - from).whole_milliseconds(),
        _ => 0,
    };
    let last = place(at + took).max(first);
    let ink = match (line.is_span, line.to.is_some()) {
        (false, _) => '◆',
        // Not ended: to the edge.
        (true, false) => '░',
        (true, true) => '█',
    };
    let last = if ink == '░' { bar - 1 } else { last };
    (0..bar).map(|column| if (first..=last).contains(&column) { ink } else { '·' }).collect()
}

/// Starts and ends joined by span; facts stand where they happened.
fn lines(events: &[Value]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut spans: BTreeMap<String, usize> = BTreeMap::new();
    for event in events {
        let payload = event.get("payload").unwrap_or(&Value::Null);
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        let is_span = matches!(kind, "SPAN_START" | "SPAN_END");
        let at = is_span.then(|| payload.get("ts")).flatten().or_else(|| event.get("ts")).and_then(Value::as_str).and_then(instant);
        if !is_span {
            if let Some(line) = fact(kind, event, payload, at) {
                lines.push(line);
            }
            continue;
        }
        let place = *spans.entry(text(payload, "span_id")).or_insert_with(|| {
            lines.push(Line { is_span: true, ..Line::default() });
            lines.len() - 1
        });
        let Some(line) = lines.get_mut(place) else { continue };
        if kind == "SPAN_START" {
            line.from = line.from.or(at);
            line.name = text(payload, "name");
            if let Some(attempt) = payload.get("attempt").and_then(Value::as_u64).filter(|attempt| *attempt > 1) {
                line.notes.push(format!("attempt {attempt}"));
            }
        } else {
            ended(line, payload, at);
        }
        if let Some(effect) = event.get("effect_id").and_then(Value::as_str)
            && !line.notes.iter().any(|note| note == effect)
        {
            line.notes.push(printable(effect));
        }
    }
    lines
}

fn ended(line: &mut Line, payload: &Value, at: Option<OffsetDateTime>) {
    line.to = at;
    line.from = line.from.or(at);
    line.latency_ms = payload.get("latency_ms").and_then(Value::as_u64);
    let mut notes = vec![text(payload, "status")];
    let policy = payload.get("policy");
    notes.extend(policy.and_then(|policy| policy.get("verdict")).and_then(Value::as_str).map(str::to_owned));
    notes.extend(payload.get("error_code").and_then(Value::as_str).map(str::to_owned));
    let attributes = payload.get("attributes");
    for name in ["dedupe_of", "gate_id"] {
        let value = attributes.and_then(|attributes| attributes.get(name)).and_then(Value::as_str);
        notes.extend(value.map(|value| format!("{name}={value}")));
    }
    line.notes.splice(0..0, notes);
}

/// What is worth a line beside the spans: what people and probes said, and what came late.
fn fact(kind: &str, event: &Value, payload: &Value, at: Option<OffsetDateTime>) -> Option<Line> {
    if !["gate_opened", "gate_voted", "gate_expired", "effect_settled", "duplicate_observed"].contains(&kind) {
        return None;
    }
    let member = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(printable);
    let mut notes: Vec<String> = member(event, "effect_id").into_iter().collect();
    notes.extend(member(payload, "person"));
    notes.extend(member(payload, "verdict"));
    notes.extend(payload.get("outcome").and_then(|outcome| member(outcome, "outcome")));
    notes.extend(member(payload, "gate").or_else(|| member(payload.get("gate")?, "gate")));
    Some(Line { from: at, name: kind.replace('_', " "), notes, ..Line::default() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn events() -> Vec<Value> {
        let at = |seconds: u32| format!("2026-01-01T00:00:{seconds:02}.000Z");
        let start = |span: &str, seconds, name: &str, attempt| {
            json!({"type": "SPAN_START", "ts": at(seconds), "effect_id": format!("eff-{span}"),
                   "payload": {"span_id": span, "ts": at(seconds), "name": name, "attempt": attempt}})
        };
        let end = |span: &str, seconds, status: &str, more: Value| {
            json!({"type": "SPAN_END", "ts": at(seconds), "effect_id": format!("eff-{span}"),
                   "payload": {"span_id": span, "ts": at(seconds), "status": status, "latency_ms": 2000, "error_code": more["code"],
                               "policy": {"verdict": "allow"}, "attributes": more["attributes"]}})
        };
        vec![
            json!({"type": "run_opened", "ts": at(0), "payload": {}}),
            start("a", 0, "POST broker/v1/orders", 1),
            end("a", 2, "error", json!({"code": "effect_in_doubt", "attributes": {"gate_id": "g-1"}})),
            json!({"type": "gate_voted", "ts": at(5), "payload": {"gate": "g-1", "person": "local:ada", "verdict": "Executed"}}),
            start("b", 8, "POST broker/v1/orders", 2),
            end("b", 10, "deduped", json!({"attributes": {"dedupe_of": "a"}})),
            start("c", 10, "GET broker/\u{1b}[2J", 1),
        ]
    }

    #[test]
    fn each_span_lies_at_its_place_in_time_with_what_became_of_it() {
        let run = json!({"run_id": "r-1", "agent": "trader", "explicit": false, "calls": 3});
        let text = render(&run, &events(), 100);
        let lines: Vec<&str> = text.lines().skip(3).collect();
        let expect = [
            ("+0.000s", "█████", "error allow effect_in_doubt gate_id=g-1 eff-a"),
            ("+5.000s", "◆", "local:ada Executed g-1"),
            ("+8.000s", "█████", "deduped allow dedupe_of=a attempt 2 eff-b"),
            ("+10.000s", "░", "eff-c"),
        ];
        assert_eq!(lines.len(), expect.len(), "{text}");
        for (line, (begin, ink, notes)) in lines.iter().zip(expect) {
            assert!(line.trim_start().starts_with(begin) && line.contains(ink) && line.ends_with(notes), "{line}");
        }
        assert!(!text.contains('\u{1b}'), "a far side's words steer no terminal");
        let bar = |line: &str| line.chars().position(|c| "█◆░".contains(c)).unwrap();
        assert!(bar(lines[0]) < bar(lines[1]) && bar(lines[1]) < bar(lines[2]));
    }

    #[test]
    fn a_run_without_events_is_only_its_heading() {
        assert_eq!(render(&json!({"run_id": "r"}), &[], 80).lines().count(), 3);
    }
}
