//! Raw flags of the job-driven way: the ones users of the tool know, and a few of our own.

use std::path::PathBuf;

use clap::Args;

use crate::secret_text::SecretText;

const CONTROL: &str = "Control plane";
const TARGET: &str = "Target";
const NETWORK: &str = "Network";
const KEEP: &str = "What the target keeps or gets";
const TRANSFER: &str = "Transfer";
const RUN: &str = "What to do and how to run";
const OWN: &str = "Beyond the original tool";

/// A migration by job, as typed.
#[derive(Args, Debug, Default)]
#[group(skip)]
pub struct JobArgs {
    /// Only check this machine; migrate nothing
    #[arg(long, help_heading = RUN)]
    pub check: bool,
    /// Only test, disk by disk, whether block-level migration is possible
    #[arg(long, help_heading = RUN)]
    pub blocktest: bool,
    /// Make the target leave migration mode; clean and restore the tool's own files
    #[arg(long, help_heading = RUN)]
    pub clean: bool,
    /// Skip the checks
    #[arg(long, help_heading = RUN)]
    pub ignore_check: bool,
    /// Create and start the job at once instead of waiting for one from the console
    #[arg(long, help_heading = RUN)]
    pub console: bool,
    /// Migrate without a job; the console does not show it
    #[arg(long, help_heading = RUN)]
    pub no_console: bool,
    /// Run in the background
    #[arg(long, help_heading = RUN)]
    pub daemon: bool,
    /// Name of the log file in the folder `logs` beside the program (default `log`)
    #[arg(long, value_name = "NAME", help_heading = RUN)]
    pub log_file: Option<String>,
    /// 1 errors, 2 information (default), 3 debugging
    #[arg(long, value_name = "1|2|3", help_heading = RUN)]
    pub log_level: Option<String>,

    /// Domain, address or host:port of the API
    #[arg(long, value_name = "DOMAIN", help_heading = CONTROL)]
    pub endpoint: Option<String>,
    /// Region of the target
    #[arg(long, value_name = "REGION", help_heading = CONTROL)]
    pub region: Option<String>,
    /// Id of the API key; else GO2CLOUD_SECRET_ID, user.json, or asked for
    #[arg(long, value_name = "ID", help_heading = CONTROL)]
    pub secret_id: Option<SecretText>,
    /// API key; else GO2CLOUD_SECRET_KEY, user.json, or asked for
    #[arg(long, value_name = "KEY", help_heading = CONTROL)]
    pub secret_key: Option<SecretText>,

    /// Instance to migrate to, ins-…
    #[arg(long, value_name = "ID", help_heading = TARGET)]
    pub instance_id: Option<String>,
    /// Make an image of this name instead
    #[arg(long, value_name = "NAME", help_heading = TARGET)]
    pub out_image_name: Option<String>,
    /// Address of the target, if not the one that the API names
    #[arg(long, value_name = "IP", help_heading = TARGET)]
    pub remote_ip: Option<String>,
    /// VPC of the transit instance: private network and image only
    #[arg(long, value_name = "ID", help_heading = TARGET)]
    pub dest_vpc_id: Option<String>,
    /// Subnet of the transit instance: private network and image only
    #[arg(long, value_name = "ID", help_heading = TARGET)]
    pub dest_subnet_id: Option<String>,
    /// Image of the transit instance: private network and image only
    #[arg(long, value_name = "ID", help_heading = TARGET)]
    pub transit_image_id: Option<String>,
    /// Allow a target with smaller disks
    #[arg(long, help_heading = TARGET)]
    pub minify: bool,

    /// 0 all over public networks (default); 1 in three stages by way of a gateway; 2 data over a private network; 3 as
    /// 2, with the API through a proxy
    #[arg(long, value_name = "0|1|2|3", help_heading = NETWORK)]
    pub mode: Option<String>,
    /// Address of the HTTP proxy of mode 3
    #[arg(long, value_name = "IP", help_heading = NETWORK)]
    pub proxy_ip: Option<String>,
    /// Port of the HTTP proxy
    #[arg(long, value_name = "PORT", help_heading = NETWORK)]
    pub proxy_port: Option<String>,
    /// User at the HTTP proxy
    #[arg(long, value_name = "USER", help_heading = NETWORK)]
    pub proxy_user: Option<String>,
    /// Password at the HTTP proxy
    #[arg(long, value_name = "PASSWORD", help_heading = NETWORK)]
    pub proxy_password: Option<SecretText>,
    /// Do not compare private addresses when the private address is kept
    #[arg(long, help_heading = NETWORK)]
    pub skip_inet_ip_checker: bool,

    /// Upper limit in KB/s, 0 to 25600; 0: none
    #[arg(long, value_name = "KB/s", help_heading = TRANSFER)]
    pub bandwidth_limit: Option<String>,
    /// How long to go on sending what changes, 60 to 10080 minutes
    #[arg(long, value_name = "MINUTES", help_heading = TRANSFER)]
    pub incremental_time: Option<String>,

    /// Do not install cloud-init on the target
    #[arg(long, help_heading = KEEP)]
    pub disable_cloud_init: bool,
    /// cloud-init must not set up the target's network
    #[arg(long, help_heading = KEEP)]
    pub disable_cloud_init_network: bool,
    /// Keep this machine's host name
    #[arg(long, help_heading = KEEP)]
    pub preserve_hostname: bool,
    /// Keep /etc/hosts
    #[arg(long, help_heading = KEEP)]
    pub preserve_hosts: bool,
    /// Keep the DNS servers
    #[arg(long, help_heading = KEEP)]
    pub preserve_dns: bool,
    /// Keep the package mirrors
    #[arg(long, help_heading = KEEP)]
    pub preserve_mirrors: bool,
    /// Keep the time servers
    #[arg(long, help_heading = KEEP)]
    pub preserve_ntp: bool,
    /// Windows only; accepted and ignored here
    #[arg(long, help_heading = KEEP)]
    pub inject_virtio_skip: bool,

    /// Use a target's larger disks to their ends: the last partition of each, and the root volume of LVM
    #[arg(long, help_heading = OWN)]
    pub grow: bool,
    /// Directory to migrate instead of the whole system
    #[arg(long, value_name = "DIR", help_heading = OWN)]
    pub source_root: Option<PathBuf>,
    /// Disk to migrate block by block instead of the whole system; may be repeated
    #[arg(long, value_name = "DEV", help_heading = OWN)]
    pub source_disk: Vec<PathBuf>,
    /// Let the job that -console creates go block by block
    #[arg(long, help_heading = OWN)]
    pub block: bool,
    /// Port of the receiver, if not the one that the API names
    #[arg(long, value_name = "PORT", help_heading = OWN)]
    pub remote_port: Option<String>,
    /// Secret of the receiver at -remote-ip: migrate with -no-console and without any API
    #[arg(long, value_name = "FILE", help_heading = OWN)]
    pub secret_file: Option<PathBuf>,
    /// Enrolment code instead of an API key
    #[arg(long, value_name = "CODE", help_heading = OWN)]
    pub enrol: Option<SecretText>,
    /// Certificate authority of the API, PEM
    #[arg(long, value_name = "FILE", help_heading = OWN)]
    pub ca_file: Option<PathBuf>,
    /// SHA-256 fingerprint of the API's self-signed certificate, as `go2cloud-control serve` prints it
    #[arg(long, value_name = "HEX", help_heading = OWN)]
    pub fingerprint: Option<String>,
    /// Speak to the API without TLS: only for tests on one machine
    #[arg(long, help_heading = OWN)]
    pub plain_http: bool,
    /// Let the target read everything back from its medium at the end and compare
    #[arg(long, help_heading = OWN)]
    pub checksum: bool,
    /// Freeze the file system for the last round of a directory, too; of a whole system and of disks it is done anyway
    #[arg(long, help_heading = OWN)]
    pub freeze: bool,
    /// Do not freeze for the last round of a migration by files: what is written meanwhile may be of several moments
    #[arg(long, help_heading = OWN)]
    pub no_freeze: bool,
    /// Longest time for which file systems may be frozen, in seconds (default 30)
    #[arg(long, value_name = "SECONDS", help_heading = OWN)]
    pub freeze_max: Option<String>,
    /// Command for /bin/sh before the last round, for instance to stop services
    #[arg(long, value_name = "CMD", help_heading = OWN)]
    pub pre_freeze: Option<String>,
    /// Command for /bin/sh after the last round has read everything, however it ended
    #[arg(long, value_name = "CMD", help_heading = OWN)]
    pub post_freeze: Option<String>,
    /// Have the target start what has arrived before the last round, in a virtual machine on an overlay; `stop` ends the
    /// migration when it does not boot, `warn` goes on
    #[arg(long, value_name = "stop|warn", help_heading = OWN)]
    pub boot_check: Option<String>,
    /// Folder of what is kept between runs (default /var/lib/go2cloud)
    #[arg(long, value_name = "DIR", help_heading = OWN)]
    pub state: Option<PathBuf>,
    /// End after one job instead of waiting for the next
    #[arg(long, help_heading = OWN)]
    pub once: bool,
    /// Print one JSON object per line (with --check: one report) to standard output
    #[arg(long, help_heading = OWN)]
    pub json: bool,

    /// Switches that were turned off (`-daemon=false`), against a configuration file that turns them on
    #[arg(long, hide = true)]
    pub off: Vec<String>,
}
