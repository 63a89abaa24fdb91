//! Tables as `kubectl get` prints them: upper-case titles, columns as wide as their widest cell, two blanks between.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// Its title.
    pub(crate) title: &'static str,
    /// Whether only `-o wide` shows it.
    pub(crate) wide: bool,
    /// What stands in it.
    pub(crate) cell: fn(&Value) -> String,
}

/// A column that is always shown.
pub(crate) const fn column(title: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { title, wide: false, cell }
}

/// A column of `-o wide`.
pub(crate) const fn wide(title: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { title, wide: true, cell }
}

/// A member as text; what is not there is `-`.
pub(crate) fn text(item: &Value, member: &str) -> String {
    match item.get(member) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(other) => other.to_string(),
    }
}

/// What comes from requests must not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// How long ago a member's time is, as in `5m`.
pub(crate) fn age(item: &Value, member: &str) -> String {
    let then = item.get(member).and_then(Value::as_str).and_then(instant);
    then.map_or("-".to_owned(), |then| span((OffsetDateTime::now_utc() - then).whole_seconds()))
}

/// How long until a member's time is; `past` once it is over.
pub(crate) fn until(item: &Value, member: &str) -> String {
    let then = item.get(member).and_then(Value::as_str).and_then(instant);
    then.map_or("-".to_owned(), |then| match (then - OffsetDateTime::now_utc()).whole_seconds() {
        ..0 => "past".to_owned(),
        seconds => span(seconds),
    })
}

/// RFC 3339 as an instant.
pub(crate) fn instant(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// Two units at most, as `kubectl` writes ages.
fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{minutes}m{}s", seconds % 60),
        600..10_800 => format!("{minutes}m"),
        10_800..172_800 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

/// The table.
pub(crate) fn render(items: &[Value], columns: &[Column], all: bool) -> String {
    let columns: Vec<&Column> = columns.iter().filter(|column| all || !column.wide).collect();
    let mut rows: Vec<Vec<String>> = vec![columns.iter().map(|column| column.title.to_owned()).collect()];
    rows.extend(items.iter().map(|item| columns.iter().map(|column| (column.cell)(item)).collect()));
    let widths: Vec<usize> = (0..columns.len())
        .map(|at| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut table = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width));
        table.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_wide_ones_come_when_asked_for() {
        let columns =
            [column("NAME", |item| text(item, "name")), wide("MORE", |item| text(item, "more")), column("N", |item| text(item, "n"))];
        let items = [json!({"name": "a-long-name", "n": 1, "more": null}), json!({"name": "b\u{1b}[31m", "n": 20, "more": "x"})];
        assert_eq!(render(&items, &columns, false), "NAME         N\na-long-name  1\nb\u{fffd}[31m       20\n");
        assert!(render(&items, &columns, true).starts_with("NAME         MORE  N\na-long-name  -     1\n"));
    }

    #[test]
    fn spans_are_written_as_kubectl_writes_ages() {
        for (seconds, expect) in [(-3, "0s"), (119, "119s"), (125, "2m5s"), (600, "10m"), (10_800, "3h"), (172_800, "2d")] {
            assert_eq!(span(seconds), expect);
        }
    }

    #[test]
    fn what_is_over_is_past_and_what_has_no_end_is_a_dash() {
        assert_eq!(until(&json!({"at": "2001-01-01T00:00:00Z"}), "at"), "past");
        assert_eq!(until(&json!({}), "at"), "-");
        assert_eq!(age(&json!({"at": "nonsense"}), "at"), "-");
    }
}
