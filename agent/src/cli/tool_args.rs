//! Raw arguments of the small commands around a migration.

use std::path::PathBuf;

use clap::Args;

/// What a running agent is doing.
#[derive(Args, Debug, Default)]
#[command(after_help = "Exit codes: 0 an agent runs; 1 none does.")]
pub struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Go on printing while an agent runs
    #[arg(long)]
    pub watch: bool,
    /// The agent's folder (default /var/lib/go2cloud)
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// Ends the incremental phase.
#[derive(Args, Debug, Default)]
pub struct FinishArgs {
    /// The agent's folder (default /var/lib/go2cloud)
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// Checks a receipt.
#[derive(Args, Debug, Default)]
#[command(
    after_help = "Exit codes: 0 whole and complete; 1 not to be trusted; 23 whole, but some entries were not copied."
)]
pub struct VerifyArgs {
    /// The receipt, receipt-….json
    #[arg(value_name = "RECEIPT", required = true)]
    pub receipt: PathBuf,
    /// Public key that must have signed it, hexadecimal
    #[arg(long, value_name = "HEX")]
    pub key: Option<String>,
}

/// Packs what support needs.
#[derive(Args, Debug, Default)]
pub struct BundleArgs {
    /// File to write (default go2cloud-support-….tar in the current folder)
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The agent's folder (default /var/lib/go2cloud)
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

/// Writes shell completions to standard output.
#[derive(Args, Debug)]
pub struct CompletionArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// Writes man pages.
#[derive(Args, Debug, Default)]
pub struct ManArgs {
    /// Folder to write them to
    #[arg(value_name = "DIR", required = true)]
    pub folder: PathBuf,
}
