//! What a pod asks for, by annotations of ours. All are read at once, and everything that is wrong is told by name.

mod log_filter;
mod name;
mod nearest;
mod skip_ports;

use crate::capture::Capture;
use crate::names::{CAPTURE, DOMAIN, INJECT, STATUS};
use crate::path::FieldPath;
use crate::pod::Texts;
use crate::quantity::Quantity;
use crate::refusal::Findings;
use crate::resources::{Kind, Resources, Share};

pub(crate) use self::log_filter::LogFilter;
pub(crate) use self::name::DisplayName;
pub(crate) use self::skip_ports::SkipPorts;

pub(crate) const SKIP_OUTBOUND_PORTS: &str = "kybernis.io/skip-outbound-ports";
const AGENT: &str = "kybernis.io/agent";
const LOG_LEVEL: &str = "kybernis.io/log-level";
const CPU_REQUEST: &str = "kybernis.io/proxy-cpu-request";
const CPU_LIMIT: &str = "kybernis.io/proxy-cpu-limit";
const MEMORY_REQUEST: &str = "kybernis.io/proxy-memory-request";
const MEMORY_LIMIT: &str = "kybernis.io/proxy-memory-limit";

/// Every annotation of ours.
const KNOWN: [&str; 10] =
    [INJECT, CAPTURE, AGENT, CPU_REQUEST, CPU_LIMIT, MEMORY_REQUEST, MEMORY_LIMIT, SKIP_OUTBOUND_PORTS, LOG_LEVEL, STATUS];

/// What a pod asks for beside being injected.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) capture: Option<Capture>,
    pub(crate) agent: Option<DisplayName>,
    pub(crate) log: Option<LogFilter>,
    pub(crate) skip_ports: Option<SkipPorts>,
    cpu: Share,
    memory: Share,
}

impl Asked {
    /// Reads the annotations of a pod that is to be injected.
    pub(crate) fn read(annotations: &Texts, findings: &mut Findings) -> Self {
        let mut reader = Reader { annotations, findings };
        let asked = Self {
            capture: reader.read(CAPTURE, |text| Capture::parse(text).ok_or(CAPTURE_RULE)),
            agent: reader.read(AGENT, DisplayName::parse),
            log: reader.read(LOG_LEVEL, LogFilter::parse),
            skip_ports: reader.read(SKIP_OUTBOUND_PORTS, SkipPorts::parse),
            cpu: Share { request: reader.amount(CPU_REQUEST, Kind::Cpu), limit: reader.amount(CPU_LIMIT, Kind::Cpu) },
            memory: Share { request: reader.amount(MEMORY_REQUEST, Kind::Memory), limit: reader.amount(MEMORY_LIMIT, Kind::Memory) },
        };
        reader.unknown();
        asked
    }

    /// What the sidecar gets: what the pod asks for, and the chart's defaults for the rest.
    pub(crate) fn resources(&self, defaults: Resources, findings: &mut Findings) -> Resources {
        let mut share = |asked: Share, default: Share, kind: Kind, [request, limit]: [&str; 2]| {
            let share = Share { request: asked.request.or(default.request), limit: asked.limit.or(default.limit) };
            if let (false, Some(requested), Some(limited)) = (share.fits(), share.request, share.limit) {
                let origin = |asked: bool| if asked { "" } else { ", the chart's default" };
                let rule = format!(
                    "the sidecar's {kind} request {requested}{} is above its limit {limited}{}",
                    origin(asked.request.is_some()),
                    origin(asked.limit.is_some()),
                );
                let at = if asked.request.is_some() { request } else { limit };
                findings.fault(FieldPath::annotation(at), rule, format!("Set both {request} and {limit}"));
            }
            share
        };
        Resources {
            cpu: share(self.cpu, defaults.cpu, Kind::Cpu, [CPU_REQUEST, CPU_LIMIT]),
            memory: share(self.memory, defaults.memory, Kind::Memory, [MEMORY_REQUEST, MEMORY_LIMIT]),
        }
    }
}

const CAPTURE_RULE: &str = "is no way to capture. Write Cooperative, Redirect or Strict";

struct Reader<'r> {
    annotations: &'r Texts,
    findings: &'r mut Findings,
}

impl Reader<'_> {
    /// The value of an annotation. Errors say the rule and then, as their last sentence, what to do.
    fn read<T, E: ToString>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let text = self.annotations.get(name)?;
        let problem = match parse(text) {
            Ok(value) => return Some(value),
            Err(error) => error.to_string(),
        };
        let (rule, advice) = problem.rsplit_once(". ").unwrap_or((&problem, "Correct it"));
        self.findings.fault(FieldPath::annotation(name), format!("{text:?} {rule}"), advice);
        None
    }

    fn amount(&mut self, name: &str, kind: Kind) -> Option<Quantity> {
        self.read(name, |text| kind.read(text).map_err(|error| format!("{error}. {}", kind.advice())))
    }

    /// A misspelt annotation would else be passed over in silence.
    fn unknown(&mut self) {
        for (name, _) in self.annotations.iter() {
            let Some(rest) = name.strip_prefix(DOMAIN).filter(|_| !KNOWN.contains(&name)) else { continue };
            let known = KNOWN.iter().filter(|known| **known != STATUS).filter_map(|known| known.strip_prefix(DOMAIN));
            let meant = nearest::nearest(rest, known).map(|meant| format!("; did you mean {DOMAIN}{meant}?"));
            let meant = meant.unwrap_or_else(|| ": Kybernis has none of this name".to_owned());
            self.findings.warn(format!("the annotation {name} has no effect{meant}"));
        }
    }
}
