//! How results look: a table for people, JSON or YAML for programs, always the ledger's own members.

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::table::{Column, render};

/// A form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns that answer the usual question
    #[default]
    Table,
    /// All columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// Which form is wanted.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OutputArgs {
    /// How the result looks
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

impl OutputArgs {
    /// A listing.
    pub(crate) fn list(self, items: &[Value], columns: &[Column], empty: &str) -> anyhow::Result<String> {
        match self.structured(&Value::Array(items.to_vec()))? {
            Some(text) => Ok(text),
            None if items.is_empty() => Ok(format!("{empty}\n")),
            None => Ok(render(items, columns, self.output == Format::Wide)),
        }
    }

    /// For programs; `None` where a person reads.
    pub(crate) fn structured(self, value: &Value) -> anyhow::Result<Option<String>> {
        match self.output {
            Format::Table | Format::Wide => Ok(None),
            Format::Json => Ok(Some(serde_json::to_string_pretty(value)? + "\n")),
            Format::Yaml => Ok(Some(serde_yaml_ng::to_string(value)?)),
        }
    }
}
