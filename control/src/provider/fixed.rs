//! `static`: receivers that run already, at addresses that were declared.
//!
//! Entering migration mode is looking whether the receiver answers; leaving it is nothing. It makes and removes nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use csm::Secret;
use tokio::net::TcpSocket;

use super::{Doing, Endpoint, Outcome, Power, Provider, ProviderError, Reachability};
use crate::records::{Image, Instance};

/// How long the receiver's port may take to answer: a round trip around the world and two repeated SYNs.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Receivers that run already.
#[derive(Debug, Default)]
pub struct StaticProvider;

fn unsupported<'p, T>(what: &str) -> Doing<'p, T> {
    let message = format!("an instance of the static provider cannot {what}: do it on the machine itself");
    Box::pin(async move { Err(ProviderError::Unsupported(message)) })
}

/// The parts of `host:port`.
fn split(address: &str) -> Result<(String, u16), ProviderError> {
    let bad = || ProviderError::Failed(format!("the declared address {address:?} is not HOST:PORT"));
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), port.parse().map_err(|_| bad())?))
}

async fn look(host: &str, port: u16) -> Result<(), ProviderError> {
    // A name is the agent's to resolve: what it means here need not be what it means there.
    let Ok(ip) = host.parse::<IpAddr>() else {
        return Ok(());
    };
    let address = SocketAddr::new(ip, port);
    let unreachable = |why: String| {
        ProviderError::Unreachable(format!(
            "the receiver at {address} does not answer ({why}); start it and open its port"
        ))
    };
    let socket = if ip.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    let socket = socket.map_err(|error| unreachable(error.to_string()))?;
    match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(address)).await {
        Ok(Ok(_stream)) => Ok(()),
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(unreachable("timed out".to_owned())),
    }
}

impl Provider for StaticProvider {
    fn create<'p>(&'p self, instance: &'p Instance, _image: Option<&'p Image>) -> Doing<'p, ()> {
        if instance.address.is_empty() {
            return unsupported("be made without its receiver's address and secret");
        }
        Box::pin(async move { split(&instance.address).map(drop) })
    }

    fn destroy<'p>(&'p self, _instance: &'p Instance) -> Doing<'p, ()> {
        Box::pin(async { Ok(()) })
    }

    fn enter<'p>(
        &'p self,
        instance: &'p Instance,
        _secret: &'p Secret,
        reach: Reachability,
    ) -> Doing<'p, Endpoint> {
        Box::pin(async move {
            let (ip, port) = split(&instance.address)?;
            let lan_ip = if instance.lan_address.is_empty() {
                ip.clone()
            } else {
                split(&instance.lan_address)?.0
            };
            if reach == Reachability::Check {
                look(&ip, port).await?;
            }
            Ok(Endpoint { ip, lan_ip, port })
        })
    }

    fn exit<'p>(&'p self, _instance: &'p Instance, _outcome: Outcome) -> Doing<'p, ()> {
        Box::pin(async { Ok(()) })
    }

    fn power<'p>(&'p self, _instance: &'p Instance, _power: Power) -> Doing<'p, ()> {
        unsupported("be started or stopped from here")
    }

    fn make_image<'p>(&'p self, _instance: &'p Instance, _image: &'p Image) -> Doing<'p, ()> {
        unsupported("be made an image of")
    }

    fn discard_image<'p>(&'p self, _image: &'p Image) -> Doing<'p, ()> {
        Box::pin(async { Ok(()) })
    }

    fn import_image<'p>(&'p self, _image: &'p Image, _url: &'p str) -> Doing<'p, ()> {
        unsupported("take images")
    }

    fn place(&self, _instance: &Instance) -> Option<PathBuf> {
        None
    }
}
