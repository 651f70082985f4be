//! The demo's cloud: a control plane with a key, and its administrator's command line.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::world::{Running, World};

/// A running control plane, and how to talk to it.
pub(crate) struct Cloud<'a> {
    world: &'a World,
    process: Running,
    /// `host:port` of the API.
    pub(crate) address: String,
    /// Fingerprint of its certificate.
    pub(crate) fingerprint: String,
    key: Value,
}

impl<'a> Cloud<'a> {
    /// Starts it; its database and instances lie in the demo's folder.
    pub(crate) fn start(world: &'a World) -> Result<Self> {
        let data = world.path("cloud");
        let log = std::fs::File::create(world.path("control.log")).context("make control.log")?;
        let mut command = world.program("go2cloud-control");
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--json", "--data"])
            .arg(&data);
        command
            .arg("--receiver-program")
            .arg(world.path("programs").join("go2cloud-receiver"));
        let mut process = Running::start("the control plane", command.stdout(Stdio::piped()).stderr(log))?;
        let stdout = process
            .child()
            .stdout
            .take()
            .context("read the control plane's output")?;
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .context("read the control plane's output")?;
        let ready: Value = serde_json::from_str(&line).with_context(|| {
            format!(
                "start the control plane; it says why in {}",
                world.path("control.log").display()
            )
        })?;
        let text = |name: &str| ready[name].as_str().unwrap_or_default().to_owned();
        let key = Self::json(
            world
                .program("go2cloud-control")
                .args(["key", "create", "--json", "--data"])
                .arg(&data),
        )?;
        Ok(Self {
            world,
            process,
            address: text("address"),
            fingerprint: text("fingerprint"),
            key,
        })
    }

    /// Runs the administrator's command line and returns what it printed.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.world.program("go2cloud-control");
        command.args(arguments).args([
            "--json",
            "--endpoint",
            &self.address,
            "--fingerprint",
            &self.fingerprint,
        ]);
        Self::json(self.with_key(&mut command))
    }

    /// Hands a program the API key, out of sight of `ps`.
    pub(crate) fn with_key<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env(
                "GO2CLOUD_SECRET_ID",
                self.key["SecretId"].as_str().unwrap_or_default(),
            )
            .env(
                "GO2CLOUD_SECRET_KEY",
                self.key["SecretKey"].as_str().unwrap_or_default(),
            )
    }

    /// Whether it is still there.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.process.ended()? {
            None => Ok(()),
            Some(status) => bail!(
                "the control plane ended ({status}); see {}",
                self.world.path("control.log").display()
            ),
        }
    }

    fn json(command: &mut Command) -> Result<Value> {
        let output = command.output().context("run go2cloud-control")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("understand go2cloud-control")
    }
}
