//! What `serve` is told, and what comes of it: every contradiction is found before anything starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use crate::app::Settings;
use crate::network::Networks;
use crate::provider::{CommandProvider, LocalOptions, LocalProvider, Providers, StaticProvider};
use crate::records::Owner;
use crate::region;
use crate::schema::version_numbers;
use crate::store::Database;

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct ServeArguments {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8443")]
    pub listen: SocketAddr,
    /// Folder for the database, keys, certificate and local instances
    #[arg(long, value_name = "DIR", env = "GO2CLOUD_DATA")]
    pub data: PathBuf,
    /// Serve without TLS: for tests, and behind a proxy that speaks TLS
    #[arg(long)]
    pub plain_http: bool,
    /// Database: postgres://USER@HOST/NAME or sqlite:FILE [default: DIR/control.db]
    #[arg(long, value_name = "URL", env = "GO2CLOUD_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    /// Authorities (PEM) to verify a PostgreSQL server's certificate against [default: the system's]
    #[arg(long, value_name = "FILE", env = "GO2CLOUD_DATABASE_CA")]
    pub database_ca: Option<PathBuf>,
    /// What makes new instances
    #[arg(long, value_enum, default_value_t = ProviderName::Local)]
    pub provider: ProviderName,
    /// Folder of the operator's hooks, for the provider `command`
    #[arg(long, value_name = "DIR")]
    pub hooks: Option<PathBuf>,
    /// JSON file that declares receivers which run already
    #[arg(long, value_name = "FILE")]
    pub static_instances: Option<PathBuf>,
    /// Program of the receiver [default: go2cloud-receiver beside this program]
    #[arg(long, value_name = "PROGRAM")]
    pub receiver_program: Option<PathBuf>,
    /// Address that local receivers listen on [default: as --listen, or loopback]
    #[arg(long, value_name = "ADDR")]
    pub receiver_listen: Option<IpAddr>,
    /// Address at which sources reach local receivers [default: as --receiver-listen]
    #[arg(long, value_name = "ADDR|NAME")]
    pub receiver_advertise: Option<String>,
    /// The same over the private network [default: as --receiver-advertise]
    #[arg(long, value_name = "ADDR|NAME")]
    pub receiver_advertise_lan: Option<String>,
    /// Regions to serve; the names are free
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_values = region::DEFAULT)]
    pub regions: Vec<String>,
    /// JSON file that declares VPCs and subnets for transit instances
    #[arg(long, value_name = "FILE")]
    pub networks: Option<PathBuf>,
    /// Certificate chain (PEM) [default: self-signed, made at the first start]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Further name or address in the self-signed certificate, when it is made
    #[arg(long, value_name = "NAME")]
    pub tls_name: Vec<String>,
    /// Calls per second of one action by one key
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate_limit: u32,
    /// Jobs that may be unfinished at a time
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub job_limit: usize,
    /// Instances that may exist at a time
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub instance_limit: usize,
    /// Greatest bandwidth limit of a job, in KB/s
    #[arg(long, value_name = "KB/s", default_value_t = 25_600)]
    pub bandwidth_limit_max: u64,
    /// Oldest version of the agent that may register
    #[arg(long, value_name = "VERSION", default_value = "0.1.0")]
    pub client_version_min: String,
    /// Seconds of silence after which a source is offline: four missed heartbeats
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(i64).range(1..))]
    pub offline_after: i64,
    /// Days that audit records are kept; those of heartbeats and progress are kept for one
    #[arg(long, value_name = "DAYS", default_value_t = 400, value_parser = clap::value_parser!(i64).range(1..))]
    pub audit_days: i64,
    /// Days that temporary credentials of enrolled sources are good for
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..))]
    pub credential_days: i64,
    /// Seconds without any traffic after which a connection is closed: ten heartbeats
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub idle_timeout: u64,
    /// Say that it listens as one JSON line
    #[arg(long)]
    pub json: bool,
    /// Write the log as JSON lines
    #[arg(long)]
    pub log_json: bool,
}

/// Names of the providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProviderName {
    /// A receiver process of this machine for each instance
    Local,
    /// Receivers that run already
    Static,
    /// The operator's own hooks
    Command,
}

/// What is to be served, checked.
pub struct Plan {
    pub(super) listen: SocketAddr,
    pub(super) is_plain: bool,
    pub(super) is_json: bool,
    pub(super) idle_timeout: Duration,
    pub(super) certificate: Option<(PathBuf, PathBuf)>,
    pub(super) tls_names: Vec<String>,
    pub(super) database: Database,
    pub(super) providers: Providers,
    pub(super) networks: Networks,
    pub(super) settings: Settings,
    pub(super) static_instances: Option<PathBuf>,
}

/// Makes the data folder, for its owner only, and gives its whole path.
///
/// # Errors
///
/// When it cannot be made.
pub fn data_folder(path: &Path) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.and_then(|()| path.canonicalize())
        .with_context(|| format!("cannot use the data folder {}", path.display()))
}

impl Plan {
    /// Checks the options.
    ///
    /// # Errors
    ///
    /// All contradictions at once.
    pub fn check(arguments: ServeArguments) -> anyhow::Result<Self> {
        let refusals = refusals(&arguments);
        if !refusals.is_empty() {
            bail!(refusals.join("\n"));
        }
        let data = data_folder(&arguments.data)?;
        let database = Database::choose(
            &data,
            arguments.database.as_deref(),
            arguments.database_ca.clone(),
        )
        .map_err(anyhow::Error::msg)?;
        let providers = providers(&arguments, &data)?;
        Ok(Self {
            listen: arguments.listen,
            is_plain: arguments.plain_http,
            is_json: arguments.json,
            idle_timeout: Duration::from_secs(arguments.idle_timeout),
            certificate: arguments.tls_cert.zip(arguments.tls_key),
            tls_names: arguments.tls_name,
            database,
            providers,
            networks: Networks::read(arguments.networks.as_deref())?,
            settings: Settings {
                data,
                regions: arguments.regions,
                rate_limit: arguments.rate_limit,
                jobs_max: arguments.job_limit,
                instances_max: arguments.instance_limit,
                bandwidth_max: arguments.bandwidth_limit_max,
                client_version_min: version_numbers(&arguments.client_version_min).unwrap_or_default(),
                offline_after: arguments.offline_after,
                audit_days: arguments.audit_days,
                credential_days: arguments.credential_days,
            },
            static_instances: arguments.static_instances,
        })
    }
}

fn refusals(arguments: &ServeArguments) -> Vec<String> {
    let mut refusals = Vec::new();
    if arguments.plain_http && (arguments.tls_cert.is_some() || !arguments.tls_name.is_empty()) {
        refusals.push("--plain-http and --tls-… contradict each other".to_owned());
    }
    if arguments.provider == ProviderName::Command && arguments.hooks.is_none() {
        refusals.push("--provider command needs --hooks DIR".to_owned());
    }
    if let Some(bad) = arguments
        .regions
        .iter()
        .find(|name| !region::is_well_formed(name))
    {
        refusals.push(format!(
            "--regions: {bad:?} is not lower-case letters, digits and hyphens"
        ));
    }
    if version_numbers(&arguments.client_version_min).is_none() {
        refusals.push("--client-version-min must be a version such as 2.1.3".to_owned());
    }
    if arguments.receiver_listen.is_some_and(|ip| ip.is_unspecified())
        && arguments.receiver_advertise.is_none()
    {
        refusals.push("--receiver-listen on all addresses needs --receiver-advertise ADDR".to_owned());
    }
    refusals
}

fn providers(arguments: &ServeArguments, data: &Path) -> anyhow::Result<Providers> {
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    let program = arguments
        .receiver_program
        .clone()
        .unwrap_or_else(|| own.with_file_name("go2cloud-receiver"));
    let listen = arguments.receiver_listen.unwrap_or(match arguments.listen.ip() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    });
    let advertise = arguments
        .receiver_advertise
        .clone()
        .unwrap_or_else(|| listen.to_string());
    let options = LocalOptions {
        data: data.to_owned(),
        program,
        listen,
        advertise_lan: arguments
            .receiver_advertise_lan
            .clone()
            .unwrap_or_else(|| advertise.clone()),
        advertise,
    };
    let command = match &arguments.hooks {
        None => None,
        Some(folder) => {
            let folder = folder
                .canonicalize()
                .with_context(|| format!("cannot use the hooks in {}", folder.display()))?;
            Some(CommandProvider::new(folder))
        }
    };
    let default = match arguments.provider {
        ProviderName::Local => Owner::Local,
        ProviderName::Static => Owner::Static,
        ProviderName::Command => Owner::Command,
    };
    Ok(Providers {
        local: LocalProvider::new(options),
        fixed: StaticProvider,
        command,
        default,
    })
}
