//! Raw arguments: what the user typed, not yet checked. `plan.rs` of each command turns them into something that can run.

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::refusal::Refusals;

pub mod flags;
mod sync_args;

pub use sync_args::SyncArgs;

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Copy directories or disks straight to a receiver.
    Sync(Box<SyncArgs>),
}

/// Result of reading the command line.
#[derive(Debug)]
pub enum Parsed {
    /// Something to run.
    Run(Box<Command>),
    /// Help or version, to be shown.
    Shown(String),
    /// Nothing that can be run.
    Refused(Refusals),
}

#[derive(Debug, Parser)]
#[command(
    name = "go2cloud",
    version,
    about = "Moves this running server, or parts of it, to another machine",
    max_term_width = 110,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    /// Copy a directory or disks straight to a go2cloud-receiver, without a control plane
    Sync(Box<SyncArgs>),
}

/// The command-line definition, with help and version flags in place.
pub fn definition() -> clap::Command {
    let mut command = Cli::command().args_override_self(true);
    command.build();
    command
}

/// Reads the command line; the first argument is the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Parsed {
    let command = definition();
    let args = match flags::normalise(&command, args.into_iter().collect()) {
        Ok(args) => args,
        Err(refusals) => return Parsed::Refused(refusals),
    };
    let parsed = command
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Parsed::Run(Box::new(match cli.command {
            Sub::Sync(args) => Command::Sync(args),
        })),
        Err(error) if !error.use_stderr() => Parsed::Shown(error.render().to_string()),
        Err(error) => Parsed::Refused(clap_refusal(&error)),
    }
}

fn clap_refusal(error: &clap::Error) -> Refusals {
    let mut refusals = Refusals::default();
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    refusals.add(text.trim_end());
    refusals
}
