//! Processes in the background: servers, relays. Ended on drop.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take until it listens.
const START_MAX: Duration = Duration::from_secs(20);

/// How long a server may take to end.
const STOP_MAX: Duration = Duration::from_secs(30);

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts it and waits until it listens on `port`.
    pub(crate) fn start(mut command: Command, port: u16) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut server = Self { child };
        let start = Instant::now();
        while !server.listens(port) {
            if let Some(status) = server.child.try_wait()? {
                bail!("{command:?} ended at once with {status}");
            }
            if start.elapsed() > START_MAX {
                bail!("{command:?} does not listen on port {port}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end, for servers that end by themselves.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the server ended with {status}");
        }
        Ok(())
    }

    /// Whether a listening socket with this port exists in the server's network namespace.
    fn listens(&self, port: u16) -> bool {
        ["tcp", "tcp6"].iter().any(|kind| {
            let table =
                fs::read_to_string(format!("/proc/{}/net/{kind}", self.child.id())).unwrap_or_default();
            // "  0: 0100007F:1F90 00000000:0000 0A …": state 0A is LISTEN.
            table.lines().any(|line| {
                let mut fields = line.split_whitespace().skip(1);
                let local = fields.next().unwrap_or_default();
                let state = fields.nth(1).unwrap_or_default();
                state == "0A" && local.ends_with(&format!(":{port:04X}"))
            })
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(id) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = kill_process(id, Signal::TERM);
            let start = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) {
                if start.elapsed() > STOP_MAX {
                    let _ = self.child.kill();
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.child.wait();
    }
}
