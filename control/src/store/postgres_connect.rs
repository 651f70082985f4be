//! Connecting to PostgreSQL without the host's name service: Unix sockets and addresses directly, names through
//! [`csm::dns`].
//!
//! A connection that leaves the machine is encrypted and the server's certificate verified, unless the URL says
//! `sslmode=disable`; one over a Unix socket or the loopback is encrypted if the URL says `sslmode=require`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use csm::client::Trust;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::{TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, NoTls};

use super::postgres_tls::Session;

/// How long one attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// PostgreSQL's registered port.
const PORT: u16 = 5432;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where the database is, and whom to believe that it is it.
#[derive(Clone)]
pub(super) struct Target {
    config: Config,
    tls: Arc<ClientConfig>,
}

impl Target {
    /// Reads a URL. Certificates are verified against this file of authorities, or else those of the system.
    pub(super) fn read(url: &str, authorities: Option<PathBuf>) -> Result<Self, BoxError> {
        let trust = authorities.map_or(Trust::System, Trust::CaFile);
        Ok(Self {
            config: url.parse()?,
            tls: Arc::new(csm::client::trust::tls_config(&trust)?),
        })
    }

    /// The database's name, for messages.
    pub(super) fn name(&self) -> &str {
        self.config.get_dbname().unwrap_or("postgres")
    }

    /// Connects to the first host of the URL that answers.
    pub(super) async fn connect(&self) -> Result<Client, BoxError> {
        let ports = self.config.get_ports();
        let mut last: BoxError = "the URL names no host".into();
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(PORT);
            match tokio::time::timeout(CONNECT_TIMEOUT, self.connect_one(host, port)).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(error)) => last = error,
                Err(_) => last = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()).into(),
            }
        }
        Err(last)
    }

    async fn connect_one(&self, host: &Host, port: u16) -> Result<Client, BoxError> {
        let name = match host {
            Host::Unix(folder) => {
                let stream = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?;
                return start(&self.config, stream, NoTls).await;
            }
            Host::Tcp(name) => name,
        };
        let address = resolve(name).await?;
        let stream = open(SocketAddr::new(address, port)).await?;
        let mode = self.config.get_ssl_mode();
        if mode == SslMode::Disable || (mode == SslMode::Prefer && address.is_loopback()) {
            let mut config = self.config.clone();
            return start(config.ssl_mode(SslMode::Disable), stream, NoTls).await;
        }
        let mut config = self.config.clone();
        let session = Session::new(self.tls.clone(), ServerName::try_from(name.clone())?);
        start(config.ssl_mode(SslMode::Require), stream, session).await
    }
}

async fn open(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn resolve(name: &str) -> Result<IpAddr, BoxError> {
    let addresses = csm::dns::Resolver::default().resolve(name).await?;
    addresses
        .first()
        .copied()
        .ok_or_else(|| format!("{name} has no address").into())
}

async fn start<S, T>(config: &Config, stream: S, tls: T) -> Result<Client, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: TlsConnect<S>,
    T::Stream: TlsStream + Send + 'static,
{
    let (client, connection) = config.connect_raw(stream, tls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "the connection to the database ended");
        }
    });
    Ok(client)
}
