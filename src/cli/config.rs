//! `odradek config`: every setting, its effective value, and where the value came from.

use clap::Args;
use odradek::config::{Entry, Origin, property};
use serde_json::{Value, json};

use super::settings::{SETTINGS_HELP, SettingsArguments};
use super::table::Table;
use super::{Failure, print, print_json};

#[derive(Debug, Args)]
#[command(after_help = SETTINGS_HELP)]
pub struct ConfigArguments {
    #[command(flatten)]
    settings: SettingsArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the table of settings and defaults in Markdown, as in the README
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

pub fn run(arguments: &ConfigArguments) -> Result<(), Failure> {
    if arguments.markdown {
        return print(&property::markdown());
    }
    let config = arguments.settings.resolve()?;
    if arguments.json {
        return print_json(&config.entries().iter().map(entry_json).collect());
    }
    let mut table = Table::new(&["SETTING", "VALUE", "FROM"]);
    for entry in config.entries() {
        let value = if entry.value.is_empty() { "-" } else { &entry.value };
        table.row(&[entry.property.name, value, &entry.origin.to_string()]);
    }
    print(&table.to_string())
}

fn entry_json(entry: &Entry) -> Value {
    let (source, from) = match &entry.origin {
        Origin::Default => ("default", None),
        Origin::File(path) => ("file", Some(path.display().to_string())),
        Origin::Environment(variable) => ("environment", Some(variable.clone())),
        Origin::Flag(flag) => ("flag", Some(flag.clone())),
        // Of a running broker only; DescribeConfigs shows those.
        Origin::Dynamic(_) => ("dynamic", None),
    };
    json!({
        "name": entry.property.name,
        "value": (!entry.value.is_empty()).then_some(&entry.value),
        "source": source,
        "from": from,
        "default": entry.property.default_text(),
        "doc": entry.property.doc,
    })
}
