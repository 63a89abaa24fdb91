//! The table: what was measured, against what, and what that means.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// A gate missed by more than this factor blocks.
const BLOCKS_BEYOND: f64 = 1.5;

/// What a value is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    limit: f64,
    at_most: bool,
    gate: bool,
}

impl Bound {
    /// A gate: beyond 1.5 × of it the run fails.
    pub(crate) const fn gate_at_most(limit: f64) -> Self {
        Self { limit, at_most: true, gate: true }
    }

    /// A gate from below.
    pub(crate) const fn gate_at_least(limit: f64) -> Self {
        Self { limit, at_most: false, gate: true }
    }

    /// A target: told, and never fails the run.
    pub(crate) const fn target_at_most(limit: f64) -> Self {
        Self { limit, at_most: true, gate: false }
    }

    fn verdict(self, value: f64) -> Verdict {
        let within = |slack: f64| if self.at_most { value <= self.limit * slack } else { value >= self.limit / slack };
        if within(1.0) {
            Verdict::Holds
        } else if within(BLOCKS_BEYOND) || !self.gate {
            Verdict::Missed
        } else {
            Verdict::Blocks
        }
    }
}

/// What a row comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Holds,
    Missed,
    Blocks,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Missed => "missed",
            Self::Blocks => "MISSED, blocks",
        }
    }
}

/// One measure.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) measure: String,
    pub(crate) governed: String,
    pub(crate) baseline: String,
    /// What the bound is about.
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// None: for information.
    pub(crate) bound: Option<Bound>,
}

impl Row {
    fn cells(&self) -> [String; 6] {
        let shown =
            |value: f64| format!("{}{}", if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }, self.unit);
        let bound = self.bound.map_or_else(String::new, |bound| {
            let sign = if bound.at_most { '≤' } else { '≥' };
            let kind = if bound.gate { "" } else { " (target)" };
            let limit = if bound.limit < 1.0 { format!("{}{}", bound.limit, self.unit) } else { shown(bound.limit) };
            format!("{sign} {limit}{kind}")
        });
        let verdict = self.bound.map_or("", |bound| bound.verdict(self.value).name());
        [self.measure.clone(), self.governed.clone(), self.baseline.clone(), shown(self.value), bound, verdict.to_owned()]
    }
}

/// All rows.
#[derive(Debug)]
pub(crate) struct Table {
    /// By what the page knows it: it stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`.
    name: &'static str,
    rows: Vec<Row>,
    /// The processors did not sleep.
    awake: bool,
}

impl Table {
    pub(crate) const fn of(name: &'static str, awake: bool) -> Self {
        Self { name, rows: Vec::new(), awake }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Whether a gate is missed by too much.
    pub(crate) fn blocks(&self) -> bool {
        self.rows.iter().any(|row| row.bound.is_some_and(|bound| bound.verdict(row.value) == Verdict::Blocks))
    }

    /// On standard output.
    pub(crate) fn print(&self) {
        println!("{}", self.text());
    }

    /// Into the page, between its two marks.
    pub(crate) fn write(&self, page: &Path) -> Result<()> {
        let name = page.display().to_string();
        let text = fs::read_to_string(page).with_context(|| name.clone())?;
        let [begin, end] = self.marks();
        let Some((before, (_, after))) = text.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?))) else {
            bail!("{name} has no line {begin:?} before {end:?}");
        };
        let fresh = format!("{before}{begin}{}{}\n{end}{after}", self.text(), self.machine());
        fs::write(page, fresh).with_context(|| name.clone())
    }

    fn marks(&self) -> [String; 2] {
        [format!("<!-- {}: begin -->\n", self.name), format!("<!-- {}: end -->", self.name)]
    }

    fn text(&self) -> String {
        let heads = ["measure", "governed", "baseline", "value", "bound", "verdict"].map(str::to_owned);
        let rows: Vec<[String; 6]> = std::iter::once(heads).chain(self.rows.iter().map(Row::cells)).collect();
        let mut widths = [0; 6];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for (number, row) in rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(widths) {
                let _ = write!(text, "| {cell:width$} ");
            }
            text.push_str("|\n");
            if number == 0 {
                text.extend(widths.map(|width| format!("|{}", "-".repeat(width + 2))));
                text.push_str("|\n");
            }
        }
        text
    }

    /// Where and when.
    fn machine(&self) -> String {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let model =
            cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map_or("unknown CPU", |(_, name)| name.trim());
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = read("/proc/sys/kernel/osrelease");
        let load = read("/proc/loadavg");
        let load = load.split(' ').next().unwrap_or_default();
        let today = time::OffsetDateTime::now_utc().date();
        let sleep = if self.awake { "kept awake" } else { "free to sleep between two steps" };
        format!("\nMeasured {today}: {cores} × {model}, {sleep}, Linux {}, load average {load} at the end.\n", kernel.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_blocks_only_beyond_half_as_much_again_and_a_target_never() {
        let check = |bound: Bound, value: f64, expect: Verdict| assert_eq!(bound.verdict(value), expect, "{bound:?} {value}");
        check(Bound::gate_at_most(1.25), 1.25, Verdict::Holds);
        check(Bound::gate_at_most(1.25), 1.8, Verdict::Missed);
        check(Bound::gate_at_most(1.25), 1.9, Verdict::Blocks);
        check(Bound::gate_at_least(3.0), 3.0, Verdict::Holds);
        check(Bound::gate_at_least(3.0), 2.0, Verdict::Missed);
        check(Bound::gate_at_least(3.0), 1.9, Verdict::Blocks);
        check(Bound::target_at_most(10.0), 100.0, Verdict::Missed);
        check(Bound::gate_at_most(250.0), -40.0, Verdict::Holds);
    }

    #[test]
    fn a_page_keeps_everything_but_its_table() {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("page.md");
        let other = "<!-- bench: begin -->\nkept\n<!-- bench: end -->";
        let marked = "<!-- bench more: begin -->\noutdated\n<!-- bench more: end -->";
        fs::write(&page, format!("before\n{other}\n{marked}\nafter\n")).unwrap();
        let bound = Some(Bound::gate_at_most(1.25));
        let row = Row { measure: "m".into(), governed: "g".into(), baseline: "b".into(), value: 1.1, unit: "×", bound };
        Table { name: "bench more", rows: vec![row], awake: true }.write(&page).unwrap();
        let text = fs::read_to_string(&page).unwrap();
        assert!(text.starts_with("before\n") && text.ends_with("after\n") && !text.contains("outdated"), "{text}");
        assert!(text.contains(other), "{text}");
        assert!(text.contains("| m       | g        | b        | 1.10× | ≤ 1.25× | holds   |"), "{text}");
        fs::write(&page, "no marks").unwrap();
        assert!(Table::of("bench", true).write(&page).is_err());
    }
}
