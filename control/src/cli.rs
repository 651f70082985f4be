//! The command line: the service, keys (on the database), and everything else through the API.

mod connection;
mod enrol;
mod instance;
mod job;
mod key;
mod show;
mod source;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::serve::{Plan, ServeArguments, serve};
use connection::Connection;

/// The control plane of go2cloud: the CSM API on your own machine
#[derive(Debug, Parser)]
#[command(
    name = "go2cloud-control",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(Box<ServeArguments>),
    /// Access keys, directly in the database
    Key(key::KeyArguments),
    /// Migration jobs
    Job {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: job::JobCommand,
    },
    /// Source servers
    Source {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: source::SourceCommand,
    },
    /// Instances that take migrations
    Instance {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: instance::InstanceCommand,
    },
    /// Enrolment codes, which sources exchange for credentials of their own
    Enrol {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: enrol::EnrolCommand,
    },
    /// The audit trail, newest first
    Audit {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        arguments: enrol::AuditArguments,
    },
}

/// Runs the program.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    let (is_service, is_json) = match &cli.command {
        Command::Serve(arguments) => (true, arguments.log_json),
        _ => (false, false),
    };
    log_to_stderr(is_service, is_json);
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "go2cloud-control: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(is_service: bool, is_json: bool) {
    let filter = EnvFilter::try_from_env("GO2CLOUD_LOG")
        .unwrap_or_else(|_| EnvFilter::new(if is_service { "info" } else { "warn" }));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A second initialisation in one process, as in tests, keeps the first.
    drop(if is_json {
        builder.json().try_init()
    } else {
        builder.try_init()
    });
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(arguments) => {
            let plan = Plan::check(*arguments)?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            runtime.block_on(serve(plan))
        }
        Command::Key(arguments) => key::run(arguments),
        Command::Job { connection, command } => {
            connection.run(async |client| job::run(client, command).await)
        }
        Command::Source { connection, command } => {
            connection.run(async |client| source::run(client, command).await)
        }
        Command::Instance { connection, command } => {
            connection.run(async |client| instance::run(client, command).await)
        }
        Command::Enrol { connection, command } => {
            connection.run(async |client| enrol::run(client, command).await)
        }
        Command::Audit {
            connection,
            arguments,
        } => connection.run(async |client| enrol::audit(client, arguments).await),
    }
}
