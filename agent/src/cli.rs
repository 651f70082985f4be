//! Raw arguments: what the user typed, not yet checked. `plan.rs` of each command turns them into something that can run.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::refusal::Refusals;

pub mod flags;
mod job_args;
mod sync_args;
mod tool_args;

pub use job_args::JobArgs;
pub use sync_args::SyncArgs;
pub use tool_args::{BandwidthArgs, BundleArgs, CompletionArgs, FinishArgs, ManArgs, StatusArgs, VerifyArgs};

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Migrate by job, or what the flags of the job-driven way ask for instead.
    Job(Box<JobArgs>),
    /// Copy directories or disks straight to a receiver.
    Sync(Box<SyncArgs>),
    /// Show what a running agent does.
    Status(StatusArgs),
    /// Change the bandwidth limit of what runs.
    Bandwidth(BandwidthArgs),
    /// End the incremental phase of the running job.
    Finish(FinishArgs),
    /// Check a receipt.
    Verify(VerifyArgs),
    /// Pack what support needs.
    SupportBundle(BundleArgs),
    /// Write shell completions.
    Completions(CompletionArgs),
    /// Write man pages.
    Man(ManArgs),
}

/// Result of reading the command line.
#[derive(Debug)]
pub enum Parsed {
    /// Something to run, unless something was refused already; the rest can then still be checked.
    Run(Box<Command>, Refusals),
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
    after_help = AFTER_HELP,
    max_term_width = 110,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    override_usage = "go2cloud -region REGION -endpoint DOMAIN [FLAGS]\n       go2cloud COMMAND …"
)]
struct Cli {
    #[command(flatten)]
    job: JobArgs,
    #[command(subcommand)]
    command: Option<Sub>,
}

const AFTER_HELP: &str = "\
Every flag may be written -flag VALUE, -flag=VALUE, --flag VALUE or --flag=VALUE.
What is not given comes from user.json and client.json beside the program; keys also from
GO2CLOUD_SECRET_ID and GO2CLOUD_SECRET_KEY, or they are asked for. Without -console and
-no-console this machine is registered and waits for a job.

Exit codes:
    0  done; with --check: nothing to complain about
    1  failed
    2  refused, nothing done; with --check: there are warnings
    3  --check found something that must be repaired first
   23  done, but some entries could not be copied as they are, or kept changing
  130  stopped by Ctrl-C or SIGTERM
After 1 and 130 the same command resumes where it stopped.";

#[derive(Debug, Subcommand)]
enum Sub {
    /// Copy a directory or disks straight to a go2cloud-receiver, without a control plane
    Sync(Box<SyncArgs>),
    /// Show what a running agent is doing
    Status(StatusArgs),
    /// Change the bandwidth limit of the running migration
    Bandwidth(BandwidthArgs),
    /// End the incremental phase of the running job now, with one last round
    Finish(FinishArgs),
    /// Check the receipt of a migration, offline
    Verify(VerifyArgs),
    /// Pack logs, state and inventory into one file, without secrets
    SupportBundle(BundleArgs),
    /// Write completions for a shell to standard output
    Completions(CompletionArgs),
    /// Write man pages to a folder
    Man(ManArgs),
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
    let (args, mut refusals) = flags::normalise(&command, args.into_iter().collect());
    if args.len() <= 1 && !refusals.is_empty() {
        return Parsed::Refused(refusals);
    }
    let parsed = command
        .try_get_matches_from(args)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Parsed::Run(command_of(cli), refusals),
        Err(error) if !error.use_stderr() => Parsed::Shown(error.render().to_string()),
        Err(error) => {
            add_clap(&error, &mut refusals);
            Parsed::Refused(refusals)
        }
    }
}

fn command_of(cli: Cli) -> Box<Command> {
    Box::new(match cli.command {
        None => Command::Job(Box::new(cli.job)),
        Some(Sub::Sync(args)) => Command::Sync(args),
        Some(Sub::Status(args)) => Command::Status(args),
        Some(Sub::Bandwidth(args)) => Command::Bandwidth(args),
        Some(Sub::Finish(args)) => Command::Finish(args),
        Some(Sub::Verify(args)) => Command::Verify(args),
        Some(Sub::SupportBundle(args)) => Command::SupportBundle(args),
        Some(Sub::Completions(args)) => Command::Completions(args),
        Some(Sub::Man(args)) => Command::Man(args),
    })
}

/// A command line that lost a flag may lack it: that is no second mistake.
fn add_clap(error: &clap::Error, refusals: &mut Refusals) {
    if !refusals.is_empty() && error.kind() == ErrorKind::MissingRequiredArgument {
        return;
    }
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    refusals.add(text.trim_end());
}
