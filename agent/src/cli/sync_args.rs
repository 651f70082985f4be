//! Raw arguments of `go2cloud sync`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

/// What to copy whereto, as typed.
#[derive(Args, Debug, Default)]
#[command(after_help = AFTER_HELP)]
pub struct SyncArgs {
    /// Directory whose contents go to the root of the target
    #[arg(value_name = "DIR")]
    pub directories: Vec<PathBuf>,
    /// Disk or partition to copy block by block instead of a directory; may be repeated
    #[arg(long, value_name = "DEV")]
    pub disk: Vec<PathBuf>,
    /// Where the receiver listens, host:port (port 443 if left out); further ones are tried in order
    #[arg(long, value_name = "ADDR")]
    pub to: Vec<String>,
    /// File whose first line is the secret that the receiver has, too
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,

    /// Exclude rules in rsync's syntax, one a line; may be repeated
    #[arg(long, value_name = "FILE", help_heading = "What is copied")]
    pub exclude_from: Vec<PathBuf>,
    /// One exclude rule; may be repeated, comes after the files'
    #[arg(long, value_name = "PATTERN", help_heading = "What is copied")]
    pub exclude: Vec<OsString>,
    /// Copy disk-backed file systems mounted below DIR, too
    #[arg(long, help_heading = "What is copied")]
    pub cross_mounts: bool,

    /// Upper limit in KB/s (1 KB = 1024 bytes); 0: none
    #[arg(long, value_name = "KB/s", help_heading = "How it is copied")]
    pub bandwidth_limit: Option<String>,
    /// Let the target read everything back from its medium at the end and compare
    #[arg(long, help_heading = "How it is copied")]
    pub checksum: bool,
    /// Compression: auto, off, or a zstd level from 1 to 19
    #[arg(long, value_name = "LEVEL", help_heading = "How it is copied")]
    pub compress: Option<String>,
    /// Data connections, 1 to 16
    #[arg(long, value_name = "N", help_heading = "How it is copied")]
    pub connections: Option<String>,
    /// Folder for what is known about the target; a second run with it sends only what changed
    #[arg(long, value_name = "DIR", help_heading = "How it is copied")]
    pub state: Option<PathBuf>,
    /// Rounds in this run, 1 to 1000; every further one sends what changed meanwhile
    #[arg(long, value_name = "N", help_heading = "How it is copied")]
    pub rounds: Option<String>,
    /// Further rounds until one finds nothing to send
    #[arg(long, help_heading = "How it is copied")]
    pub until_clean: bool,
    /// How often in a row a lost connection is taken up again without progress (default: until Ctrl-C)
    #[arg(long, value_name = "N", help_heading = "How it is copied")]
    pub retry: Option<String>,
    /// Read at full speed even when others of this machine wait for processors, memory or disks
    #[arg(long, help_heading = "How it is copied")]
    pub no_back_off: bool,
    /// End at the first lost connection
    #[arg(long, help_heading = "How it is copied")]
    pub no_retry: bool,

    /// End with a cutover: freeze the file systems of the disks, or of DIR, for the last round
    #[arg(long, help_heading = "Cutover")]
    pub freeze: bool,
    /// Longest time for which they may be frozen, in seconds (default 30)
    #[arg(long, value_name = "SECONDS", help_heading = "Cutover")]
    pub freeze_max: Option<String>,
    /// Command for /bin/sh before the freeze, for instance to stop services
    #[arg(long, value_name = "CMD", help_heading = "Cutover")]
    pub pre_freeze: Option<String>,
    /// Command for /bin/sh after the thaw, however the freeze ended
    #[arg(long, value_name = "CMD", help_heading = "Cutover")]
    pub post_freeze: Option<String>,
    /// Have the receiver start what has arrived before the cutover, in a virtual machine on an overlay (only with --disk);
    /// `stop` ends the run when it does not boot, `warn` goes on
    #[arg(long, value_name = "stop|warn", help_heading = "Cutover")]
    pub boot_check: Option<String>,

    /// Where to put the receipt besides the state folder; the target signs it, too, as with --checksum
    #[arg(long, value_name = "FILE", help_heading = "What is shown")]
    pub receipt: Option<PathBuf>,
    /// Print one JSON object per line to standard output, last a summary
    #[arg(long, help_heading = "What is shown")]
    pub json: bool,
    /// Print nothing but errors
    #[arg(long, help_heading = "What is shown")]
    pub quiet: bool,
}

const AFTER_HELP: &str = "\
Exit codes:
    0  done and complete
    1  failed
    2  refused, nothing done
   23  done, but some entries could not be copied as they are, or kept changing
  130  stopped by Ctrl-C or SIGTERM
After 1 and 130 the same command resumes where it stopped.

Example:
  on the target:  go2cloud-receiver --listen 10.0.0.2:443 --secret-file s.key --into /mnt/target
  here:           go2cloud sync --to 10.0.0.2:443 --secret-file s.key /srv/data";
