//! The target side's front door: what is served, where it lands, and the receiver that does it.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::progress::{Observer, StopFlag};
use crate::secret::Secret;

/// What a receiver serves. Built after all checks; everything in it is valid.
pub struct ServePlan {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What both peers know.
    pub secret: Secret,
    /// Where the data land.
    pub volume: TargetVolume,
    /// Folder of the journal; made when missing. Never inside the volume.
    pub journal: PathBuf,
}

/// Where the data land.
pub enum TargetVolume {
    /// The contents of a directory.
    Tree {
        /// The directory that receives the source's contents.
        root: PathBuf,
    },
}

/// A listening target.
pub struct Receiver {
    listener: TcpListener,
    local_addr: SocketAddr,
}

impl Receiver {
    /// Opens the listening socket.
    ///
    /// # Errors
    /// The address is not local or its port is in use.
    pub fn bind(plan: ServePlan) -> Result<Self> {
        let listen = plan.listen;
        let failed = |error: std::io::Error| {
            Error::new(Kind::Usage, format!("listen on {listen}"))
                .because(error)
                .remedy("choose an address of this machine and a free port, or port 0")
        };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, local_addr })
    }

    /// The address listened on, with the port that was given for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until asked to stop.
    ///
    /// # Errors
    /// The medium refuses, or the listening socket fails.
    pub fn run(&self, _observer: &dyn Observer, stop: &StopFlag) -> Result<()> {
        while !stop.sleep(Duration::from_millis(100)) {
            if let Ok((connection, _)) = self.listener.accept() {
                drop(connection);
            }
        }
        Ok(())
    }
}
