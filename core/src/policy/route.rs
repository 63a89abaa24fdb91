//! Which registration of one level means a call: the most specific one. Two that are equally specific for some call are a
//! conflict, found when the set is compiled, so that a lookup never has to choose.

use std::collections::HashMap;

use super::call::CallHead;
use super::host::{Host, Name};
use super::model::{Tool, ToolMatch};
use super::path::{PathPattern, PathRank};

/// One (host, path) of one registration; `hosts` and `paths` of a match are multiplied out into these.
#[derive(Debug)]
struct Route {
    tool: usize,
    entry: usize,
    port: Option<u16>,
    path: Option<PathPattern>,
    methods: Vec<String>,
    rank: Rank,
}

/// How narrow a route is once its host is given: the greater wins.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    port: bool,
    path: PathRank,
    methods: bool,
}

/// The routes of one level.
#[derive(Debug, Default)]
pub(super) struct Routes {
    exact: HashMap<Host, Vec<Route>>,
    below: HashMap<String, Vec<Route>>,
}

/// Two registrations that are equally specific for some call.
#[derive(Debug)]
pub(super) struct Tie {
    /// Index of the first registration, and of the entry in its `match`.
    pub(super) first: (usize, usize),
    /// The same of the second.
    pub(super) second: (usize, usize),
    /// A host for which they tie, as the manifest writes it.
    pub(super) host: String,
}

impl Routes {
    /// Indexes these registrations of one level; the indexes are those that lookups answer.
    pub(super) fn new<'a>(tools: impl Iterator<Item = (usize, &'a Tool)>) -> Self {
        let mut routes = Self::default();
        for (index, tool) in tools {
            for (entry, found) in tool.matches.iter().enumerate() {
                routes.insert(index, entry, found);
            }
        }
        let lists = routes.exact.values_mut().chain(routes.below.values_mut());
        for list in lists {
            list.sort_by(|a, b| b.rank.cmp(&a.rank));
        }
        routes
    }

    fn insert(&mut self, tool: usize, entry: usize, found: &ToolMatch) {
        for host in &found.hosts {
            let paths: Vec<Option<&PathPattern>> = if found.paths.is_empty() { vec![None] } else { found.paths.iter().map(Some).collect() };
            let list = match &host.name {
                Name::Exact(name) => self.exact.entry(name.clone()).or_default(),
                Name::Below(name) => self.below.entry(name.as_str().to_owned()).or_default(),
            };
            for path in paths {
                list.push(Route {
                    tool,
                    entry,
                    port: host.port,
                    path: path.cloned(),
                    methods: found.methods.clone(),
                    rank: Rank {
                        port: host.port.is_some(),
                        path: path.map_or(PathRank::Any, PathPattern::rank),
                        methods: !found.methods.is_empty(),
                    },
                });
            }
        }
    }

    /// The most specific registration that means this call: an exact host before a wildcard, a longer wildcard before a
    /// shorter one, then port, path and methods.
    pub(super) fn find(&self, call: &CallHead) -> Option<usize> {
        let hit = |list: &Vec<Route>| list.iter().find(|route| route.fits(call)).map(|route| route.tool);
        if let Some(tool) = self.exact.get(call.host()).and_then(hit) {
            return Some(tool);
        }
        if self.below.is_empty() {
            return None;
        }
        let mut rest = call.host().as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(tool) = self.below.get(parent).and_then(hit) {
                return Some(tool);
            }
            rest = parent;
        }
        None
    }

    /// Every pair of registrations that are equally specific for some call.
    pub(super) fn ties(&self) -> Vec<Tie> {
        let mut ties = Vec::new();
        let exact = self.exact.iter().map(|(host, list)| (host.to_string(), list));
        let below = self.below.iter().map(|(host, list)| (format!("*.{host}"), list));
        for (host, list) in exact.chain(below) {
            for (at, a) in list.iter().enumerate() {
                // The list is sorted by rank, so equals stand together.
                for b in list[at + 1..].iter().take_while(|b| b.rank == a.rank) {
                    if a.tool != b.tool && a.meets(b) {
                        let (a, b) = if a.tool < b.tool { (a, b) } else { (b, a) };
                        ties.push(Tie { first: (a.tool, a.entry), second: (b.tool, b.entry), host: host.clone() });
                    }
                }
            }
        }
        ties.sort_by(|a, b| (a.first, a.second, &a.host).cmp(&(b.first, b.second, &b.host)));
        ties.dedup_by(|a, b| (a.first.0, a.second.0) == (b.first.0, b.second.0));
        ties
    }
}

impl Route {
    fn fits(&self, call: &CallHead) -> bool {
        self.port.is_none_or(|port| port == call.port())
            && (self.methods.is_empty() || self.methods.iter().any(|method| method == call.method()))
            && self.path.as_ref().is_none_or(|path| path.matches(call.path()))
    }

    /// Whether some call fits both; they are of one rank and one host.
    fn meets(&self, other: &Self) -> bool {
        let methods = self.methods.is_empty() || self.methods.iter().any(|method| other.methods.contains(method));
        let paths = match (&self.path, &other.path) {
            (Some(a), Some(b)) => a.meets(b),
            (None, _) | (_, None) => true,
        };
        self.port == other.port && methods && paths
    }
}
