//! Flags, environment and file into a `Config`.
//!
//! The flags are made from the table of settings, so that a setting cannot lack its flag or its help.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use odradek::config::property::{DefaultValue, Namespace};
use odradek::config::{Config, Inputs, PROPERTIES, Property, ValueType};
use odradek::preflight;

use super::Failure;

/// What the command line says about settings; not yet checked.
#[derive(Clone, Debug, Default)]
pub struct SettingsArguments {
    file: Option<PathBuf>,
    /// Flag as written, setting, value.
    flags: Vec<(String, String, String)>,
}

impl SettingsArguments {
    /// Another flag, as if it had been given last.
    pub fn with(mut self, flag: &str, setting: &str, value: String) -> SettingsArguments {
        self.flags.push((flag.to_owned(), setting.to_owned(), value));
        self
    }

    /// The effective configuration of this process on this machine.
    pub fn resolve(&self) -> Result<Config, Failure> {
        let path = self.file.clone().or_else(|| {
            std::env::var_os("ODRADEK_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
        });
        let contents = match &path {
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| {
                format!("{} cannot be read ({error}): check --config or ODRADEK_CONFIG", path.display())
            })?),
            None => None,
        };
        let environment: Vec<_> = std::env::vars_os().filter_map(ours).collect();
        let inputs = Inputs {
            file: path.as_deref().zip(contents.as_deref()),
            environment: &environment,
            flags: &self.flags,
        };
        Ok(Config::resolve(&inputs, &preflight::machine())?)
    }
}

/// Names and values that are not UTF-8 belong to others, or are refused by their parser.
fn ours((variable, value): (OsString, OsString)) -> Option<(String, String)> {
    let variable = variable.into_string().ok().filter(|variable| variable.starts_with("ODRADEK_"))?;
    Some((variable, value.to_string_lossy().into_owned()))
}

fn own_settings() -> impl Iterator<Item = &'static Property> {
    PROPERTIES.iter().filter(|property| property.namespace == Namespace::Odradek)
}

fn flag(property: &'static Property) -> Arg {
    let default = match property.default {
        DefaultValue::Text(text) => text.to_string(),
        DefaultValue::Derived(text) => text.to_string(),
    };
    let doc = property.doc.replace('`', "");
    let help = format!("{} [default: {default}]", doc.trim_end_matches('.'));
    let arg = Arg::new(property.name)
        .long(property.name)
        .value_name(property.placeholder)
        .help(StyledStr::from(help))
        .action(if property.value_type == ValueType::List { ArgAction::Append } else { ArgAction::Set });
    if property.value_type == ValueType::Boolean {
        arg.num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        // `--node-id -1` is to be refused by the setting's parser, with its message.
        arg.allow_hyphen_values(true)
    }
}

impl Args for SettingsArguments {
    fn augment_args(command: Command) -> Command {
        command
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("Read settings from this TOML file [environment: ODRADEK_CONFIG]"),
            )
            .args(own_settings().map(flag))
            .arg(
                Arg::new("set")
                    .long("set")
                    .value_name("KEY=VALUE")
                    .action(ArgAction::Append)
                    .value_parser(key_value)
                    .help("Set any setting, such as --set log.segment.bytes=512MiB (repeatable)"),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingsArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut arguments = SettingsArguments::default();
        arguments.update_from_arg_matches(matches)?;
        Ok(arguments)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.file = matches.get_one::<PathBuf>("config").cloned();
        // A setting's own flag comes last: it wins over --set.
        for (key, value) in matches.get_many::<(String, String)>("set").into_iter().flatten() {
            self.flags.push((format!("--set {key}"), key.clone(), value.clone()));
        }
        for property in own_settings() {
            let Some(values) = matches.get_many::<String>(property.name) else { continue };
            let value = values.cloned().collect::<Vec<_>>().join(","); // Only lists are repeated.
            self.flags.push((format!("--{}", property.name), property.name.to_string(), value));
        }
        Ok(())
    }
}

/// `KEY=VALUE`, as in Kafka's `--config`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_string(), value.trim().to_string()))
        }
        _ => Err("expected KEY=VALUE".to_string()),
    }
}

/// Shown below the flags of the commands that take settings.
pub const SETTINGS_HELP: &str = "\
Settings come from defaults, the file, the environment and flags; later ones win. Each flag has a
variable (--data-dir: ODRADEK_DATA_DIR) and a key in the file (data-dir). Kafka's broker settings,
such as log.segment.bytes, are set in the file, by ODRADEK_LOG_SEGMENT_BYTES or by --set.
`odradek config` lists them all.";
