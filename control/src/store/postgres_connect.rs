//! Connecting to PostgreSQL without the host's name service: Unix sockets and addresses directly, names through
//! [`csm::dns`].

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, UnixStream};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, NoTls};

/// How long one attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// PostgreSQL's registered port.
const PORT: u16 = 5432;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Connects to the first host of the URL that answers.
pub(super) async fn connect(config: &Config) -> Result<Client, BoxError> {
    let mut last: BoxError = "the URL names no host".into();
    for (index, host) in config.get_hosts().iter().enumerate() {
        let port = config
            .get_ports()
            .get(index)
            .or(config.get_ports().first())
            .copied()
            .unwrap_or(PORT);
        let attempt = tokio::time::timeout(CONNECT_TIMEOUT, connect_one(config, host, port));
        match attempt.await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => last = error,
            Err(_) => last = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()).into(),
        }
    }
    Err(last)
}

async fn connect_one(config: &Config, host: &Host, port: u16) -> Result<Client, BoxError> {
    match host {
        Host::Unix(folder) => {
            let stream = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await?;
            start(config, stream).await
        }
        Host::Tcp(name) => {
            let address = SocketAddr::new(resolve(name).await?, port);
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            let stream = socket.connect(address).await?;
            stream.set_nodelay(true)?;
            start(config, stream).await
        }
    }
}

async fn resolve(name: &str) -> Result<IpAddr, BoxError> {
    let addresses = csm::dns::Resolver::default().resolve(name).await?;
    addresses
        .first()
        .copied()
        .ok_or_else(|| format!("{name} has no address").into())
}

async fn start<S>(config: &Config, stream: S) -> Result<Client, BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = config.connect_raw(stream, NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "the connection to the database ended");
        }
    });
    Ok(client)
}
