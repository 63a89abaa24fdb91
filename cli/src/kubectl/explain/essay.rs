//! The explanation as a person reads it: short lines, from whether to why to what now.

use std::fmt;

use super::policies::{Registered, Standing};
use super::sidecar::Sidecar;
use super::{Agent, Explanation};
use crate::read::printable;

/// Longer lines are hard to read.
const WIDTH: usize = 96;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is = if self.injected { "is governed by Kybernis" } else { "is not governed by Kybernis" };
        writeln!(f, "Pod {} {is}:", printable(&self.pod))?;
        self.because.iter().try_for_each(|line| paragraph(f, line))?;
        if let Some(capture) = &self.capture {
            writeln!(f, "\nIts connections are caught by {}:", printable(&capture.mode))?;
            paragraph(f, &capture.meaning)?;
        }
        if let Some(sidecar) = &self.sidecar {
            sidecar_lines(f, sidecar)?;
        }
        agent_lines(f, &self.agent, self.injected)?;
        let all = self.unknown.is_empty();
        policy_lines(f, &self.policies, all)?;
        registered_lines(f, "Tools", &self.tools, all)?;
        registered_lines(f, "Retry policies", &self.retry_policies, all)?;
        section(f, "Looser than it could be:", &self.looser)?;
        section(f, "What you may not read:", &self.unknown)?;
        if !self.next.is_empty() {
            writeln!(f, "\nNext:")?;
            // Not wrapped: commands are copied.
            self.next.iter().try_for_each(|line| writeln!(f, "  {}", printable(line)))?;
        }
        Ok(())
    }
}

fn section(f: &mut fmt::Formatter<'_>, title: &str, lines: &[String]) -> fmt::Result {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{title}")?;
    lines.iter().try_for_each(|line| paragraph(f, line))
}

/// Indented by two, and by four where it goes on.
fn paragraph(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut line = String::from(" ");
    for word in printable(text).split(' ') {
        if line.trim_start().is_empty() || line.chars().count() + 1 + word.chars().count() <= WIDTH {
            line.push(' ');
        } else {
            writeln!(f, "{line}")?;
            line.replace_range(.., "    ");
        }
        line.push_str(word);
    }
    writeln!(f, "{line}")
}

fn sidecar_lines(f: &mut fmt::Formatter<'_>, sidecar: &Sidecar) -> fmt::Result {
    let does = match (sidecar.has_ended, sidecar.ready) {
        (true, _) => "has ended with it",
        (false, true) => "is ready",
        (false, false) => "is not ready",
    };
    writeln!(f, "\nIts sidecar {does}:")?;
    let times = if sidecar.restarts == 1 { "once".to_owned() } else { format!("{} times", sidecar.restarts) };
    let restarted = if sidecar.restarts == 0 { "never restarted".to_owned() } else { format!("restarted {times}") };
    paragraph(f, &format!("{}, {restarted}", sidecar.state))?;
    if let Some(last) = &sidecar.last_exit {
        paragraph(f, &format!("before that it ended: {last}"))?;
    }
    if let Some(redirection) = &sidecar.redirection {
        paragraph(f, &format!("its init container that redirects connections: {redirection}"))?;
    }
    if let Some(version) = &sidecar.version {
        paragraph(f, &format!("injected by version {version}"))?;
    }
    sidecar.image.iter().try_for_each(|image| paragraph(f, &format!("image {image}")))
}

fn agent_lines(f: &mut fmt::Formatter<'_>, agent: &Agent, injected: bool) -> fmt::Result {
    let is = if injected { "is" } else { "would be" };
    writeln!(f, "\nTo the ledger it {is}:")?;
    paragraph(f, &format!("agent   {}", agent.agent))?;
    paragraph(f, &format!("run     {}", agent.run))?;
    paragraph(f, &format!("tenant  {}", agent.tenant))?;
    agent.display_name.iter().try_for_each(|name| paragraph(f, &format!("people call it {name}, which decides nothing")))?;
    agent.doubt.iter().try_for_each(|doubt| paragraph(f, doubt))
}

/// What is not there, and what is not there as far as one may read.
fn none(all: bool) -> &'static str {
    if all { "none" } else { "none that you may read" }
}

fn policy_lines(f: &mut fmt::Formatter<'_>, policies: &[Standing], all: bool) -> fmt::Result {
    if policies.is_empty() {
        return writeln!(f, "\nPolicies that select it: {}.", none(all));
    }
    writeln!(f, "\nPolicies that select it:")?;
    policies.iter().try_for_each(|policy| {
        let mode = policy.mode.as_deref().unwrap_or_default();
        paragraph(f, &format!("{}, {mode}, {}", full_name(policy), policy.problem.as_deref().unwrap_or("in force")))
    })
}

fn registered_lines(f: &mut fmt::Formatter<'_>, title: &str, registered: &Registered, all: bool) -> fmt::Result {
    match (registered.count, registered.not_in_force.as_slice()) {
        (0, _) => writeln!(f, "{title}: {}.", none(all)),
        (count, []) => writeln!(f, "{title}: {count}, all in force."),
        (count, not) => {
            writeln!(f, "{title}: {count}, of which not in force:")?;
            not.iter().try_for_each(|one| paragraph(f, &format!("{}, {}", full_name(one), one.problem.as_deref().unwrap_or_default())))
        }
    }
}

fn full_name(standing: &Standing) -> String {
    format!("{}/{}", standing.namespace, standing.name)
}
