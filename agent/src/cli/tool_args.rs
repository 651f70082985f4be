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

/// Changes the bandwidth limit of what runs.
#[derive(Args, Debug, Default)]
#[command(after_help = "Exit codes: 0 taken; 1 nothing runs there; 2 refused.")]
pub struct BandwidthArgs {
    /// Upper limit in KB/s (1 KB = 1024 bytes), 0 to 25600; 0: none
    #[arg(value_name = "KB/s", required = true)]
    pub limit: String,
    /// The folder that the running agent or `sync` was given as --state (default /var/lib/go2cloud)
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
    after_help = "Exit codes: 0 whole, complete, signed by both sides; 1 not to be trusted; 23 whole, but it \
                        tells of a failure or of entries that were not copied, or the target has not signed."
)]
pub struct VerifyArgs {
    /// The receipt, receipt-….json
    #[arg(value_name = "RECEIPT", required = true)]
    pub receipt: PathBuf,
    /// Public key of the source that must have signed it, hexadecimal
    #[arg(long, value_name = "HEX")]
    pub key: Option<String>,
    /// Public key of the target that must have signed it, as the receiver shows it when it starts
    #[arg(long, value_name = "HEX")]
    pub target_key: Option<String>,
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
