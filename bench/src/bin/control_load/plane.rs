//! The control plane that is measured: a process in a folder of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use csm::client::{Config, Trust};
use csm::{Client, Credential};
use serde_json::Value;
use tempfile::TempDir;

/// Everything that the load asks of hooks is done by having done nothing.
const HOOKS: [&str; 4] = ["create", "destroy", "enter", "exit"];
/// Clock ticks of `/proc/PID/stat` in a second, on every Linux of this architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running control plane.
pub(crate) struct Plane {
    program: PathBuf,
    folder: TempDir,
    database: Option<String>,
    process: Child,
    /// `127.0.0.1:port`.
    address: String,
    trust: Trust,
    account: Credential,
}

/// Memory of the process, in MiB.
pub(crate) struct Memory {
    pub(crate) now_mib: u64,
    pub(crate) most_mib: u64,
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Plane {
    pub(crate) fn start(program: &Path, database: Option<&str>) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the control plane")?;
        let hooks = folder.path().join("hooks");
        fs::create_dir(&hooks)?;
        for hook in HOOKS {
            let path = hooks.join(hook);
            fs::write(
                &path,
                "#!/bin/sh\ncat > /dev/null\necho '{\"Ip\":\"127.0.0.1\",\"LanIp\":\"127.0.0.1\",\"Port\":443}'\n",
            )?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        let database = database.map(str::to_owned);
        let (process, address, fingerprint) =
            serve(program, folder.path(), "127.0.0.1:0", database.as_deref())?;
        let trust = Trust::Fingerprint(fingerprint.parse()?);
        let program = program.to_owned();
        let account = Credential::default();
        let mut plane = Self {
            program,
            folder,
            database,
            process,
            address,
            trust,
            account,
        };
        plane.account = plane.create_key()?;
        Ok(plane)
    }

    fn create_key(&self) -> Result<Credential> {
        let mut command = Command::new(&self.program);
        command
            .args(["key", "create", "--json", "--data"])
            .arg(self.folder.path().join("data"));
        if let Some(url) = &self.database {
            command.args(["--database", url]);
        }
        let output = command.output().context("creating a key")?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let key: Value = serde_json::from_slice(&output.stdout)?;
        let text = |name: &str| {
            key[name]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("no {name}"))
        };
        Ok(Credential::new(text("SecretId")?, text("SecretKey")?))
    }

    /// A client without a key, with one connection and one attempt for each request.
    pub(crate) fn client(&self) -> Result<Client> {
        let mut config = Config::new(self.address.parse()?, "local-1", Credential::default());
        config.trust = self.trust.clone();
        config.attempts_max = 1;
        Ok(Client::new(config)?)
    }

    /// A client with the account's key, which tries again.
    pub(crate) fn account_client(&self) -> Result<Client> {
        let mut config = Config::new(self.address.parse()?, "local-1", self.account.clone());
        config.trust = self.trust.clone();
        Ok(Client::new(config)?)
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.process.kill().context("killing the control plane")?;
        self.process.wait().context("waiting for its end")?;
        Ok(())
    }

    /// Starts it again on the same address and data.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let listen = self.address.clone();
        let (process, address, _) = serve(
            &self.program,
            self.folder.path(),
            &listen,
            self.database.as_deref(),
        )?;
        self.process = process;
        ensure!(address == self.address, "it came back at {address}");
        Ok(())
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let mib = |name: &str| -> Result<u64> {
            let line = status
                .lines()
                .find(|line| line.starts_with(name))
                .with_context(|| format!("no {name}"))?;
            let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
            Ok(kib.div_ceil(1024))
        };
        Ok(Memory {
            now_mib: mib("VmRSS")?,
            most_mib: mib("VmHWM")?,
        })
    }

    /// CPU time that it has used so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let after_name = stat.rsplit_once(')').context("no name")?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(f64::from(u32::try_from(ticks)?) / TICKS_PER_SECOND)
    }
}

fn serve(
    program: &Path,
    folder: &Path,
    listen: &str,
    database: Option<&str>,
) -> Result<(Child, String, String)> {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))?;
    let mut command = Command::new(program);
    command
        .args(["serve", "--listen", listen, "--provider", "command", "--hooks"])
        .arg(folder.join("hooks"));
    command.arg("--data").arg(folder.join("data"));
    if let Some(url) = database {
        command.args(["--database", url]);
    }
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .with_context(|| {
            format!(
                "starting {}: build it with cargo build --release -p control",
                program.display()
            )
        })?;
    let mut lines = BufReader::new(process.stdout.take().context("its output is a pipe")?).lines();
    let ready = lines.find_map(|line| {
        let line = line.ok()?;
        let mut words = line.split_once("listening on https://")?.1.split_whitespace();
        let address = words.next()?.trim_end_matches('/').to_owned();
        Some((
            address,
            words.find(|word| word.starts_with("sha256:"))?.to_owned(),
        ))
    });
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    let Some((address, fingerprint)) = ready else {
        let _ = process.kill();
        let _ = process.wait();
        bail!(
            "it did not come up: {}",
            fs::read_to_string(folder.join("log")).unwrap_or_default()
        );
    };
    Ok((process, address, fingerprint))
}
