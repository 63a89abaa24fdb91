//! The acts by number, and the table of what the far side executed.

/// One row of the table.
struct Row {
    act: &'static str,
    governed: bool,
    intended: usize,
    executed: usize,
}

/// What has been played and counted so far.
#[derive(Default)]
pub(crate) struct Books {
    rows: Vec<Row>,
    acts: usize,
}

impl Books {
    /// Opens an act.
    pub(crate) fn act(&mut self, title: &str, what: &str) {
        self.acts += 1;
        println!("\n\x1b[1m{}. {title}\x1b[0m\n   {what}", self.acts);
    }

    /// Closes an act with what the far side executed.
    pub(crate) fn count(&mut self, act: &'static str, executed: usize, intended: usize, governed: bool) {
        let mark = if executed == intended { "" } else { "   ← not what was intended" };
        println!("   the far side executed: \x1b[1m{executed}\x1b[0m of {intended} intended{mark}");
        self.rows.push(Row { act, governed, intended, executed });
    }

    /// Whether nothing went wrong under Kybernis; bare acts show the harm.
    pub(crate) fn all_as_intended(&self) -> bool {
        self.rows.iter().all(|row| !row.governed || row.executed == row.intended)
    }

    /// The whole table.
    pub(crate) fn print(&self) {
        println!("\n\x1b[1mWhat the far side executed\x1b[0m\n");
        println!("   {:<52} {:<10} {:>8} {:>8}", "act", "run", "intended", "executed");
        for row in &self.rows {
            let run = if row.governed { "kybernis" } else { "bare" };
            let mark = if row.executed == row.intended { "" } else { "  ←" };
            println!("   {:<52} {run:<10} {:>8} {:>8}{mark}", row.act, row.intended, row.executed);
        }
    }
}
