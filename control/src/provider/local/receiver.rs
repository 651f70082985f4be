//! One receiver process: started, watched, started again when it dies, ended in order.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use csm::Secret;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{LocalOptions, ProviderError, failed};
use crate::records::Instance;

/// How long a receiver may take until it listens: it reads its journal first, which for millions of files takes seconds.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a receiver may take to make its journal durable before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before a receiver that died is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Longest first line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 4096;

/// A receiver that runs, and is kept running.
pub(super) struct Receiver {
    port: u16,
    stop: watch::Sender<bool>,
    keeper: JoinHandle<()>,
}

/// What it takes to start the same receiver again.
struct Recipe {
    program: PathBuf,
    folder: PathBuf,
    listen: SocketAddr,
    targets: Vec<(&'static str, PathBuf)>,
}

impl Receiver {
    /// Starts a receiver for an instance and waits until it listens; at the port given, if that is free and not 0.
    pub(super) async fn start(
        options: &LocalOptions,
        folder: &Path,
        instance: &Instance,
        secret: &Secret,
        port: u16,
    ) -> Result<Self, ProviderError> {
        end_leftover(folder).await;
        write_secret(&folder.join("secret"), secret)?;
        let mut recipe = Recipe {
            program: options.program.clone(),
            folder: folder.to_owned(),
            listen: SocketAddr::new(options.listen, port),
            targets: targets(folder, instance),
        };
        let started = match recipe.spawn().await {
            Err(_) if port != 0 => {
                recipe.listen.set_port(0);
                recipe.spawn().await
            }
            other => other,
        };
        let (child, address) = started?;
        recipe.listen.set_port(address.port());
        let (stop, stopped) = watch::channel(false);
        let keeper = tokio::spawn(keep(recipe, child, stopped));
        Ok(Self {
            port: address.port(),
            stop,
            keeper,
        })
    }

    /// The port that it listens on.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Ends it, after its journal is durable.
    pub(super) async fn end(self) {
        self.stop.send_replace(true);
        drop(self.keeper.await);
    }
}

fn targets(folder: &Path, instance: &Instance) -> Vec<(&'static str, PathBuf)> {
    if instance.kind == "disk" {
        let count = 1 + instance.data_disks_gb.len();
        (0..count)
            .map(|index| ("--into-disk", folder.join(format!("disk{index}.img"))))
            .collect()
    } else {
        vec![("--into", folder.join("disk"))]
    }
}

fn write_secret(path: &Path, secret: &Secret) -> Result<(), ProviderError> {
    let write = || {
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(secret.reveal().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().map_err(|error| failed("write", path, &error))
}

impl Recipe {
    async fn spawn(&self) -> Result<(Child, SocketAddr), ProviderError> {
        let log = self.folder.join("receiver.log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(|error| failed("write", &log, &error))?;
        let mut command = Command::new(&self.program);
        command
            .arg("--listen")
            .arg(self.listen.to_string())
            .arg("--secret-file")
            .arg(self.folder.join("secret"));
        for (option, path) in &self.targets {
            command.arg(option).arg(path);
        }
        if self.targets.iter().any(|(option, _)| *option == "--into-disk") {
            // The disk files are this instance's own: what they hold is what an earlier attempt wrote.
            command.arg("--overwrite");
        }
        command
            .arg("--journal")
            .arg(self.folder.join("journal"))
            .arg("--json");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .process_group(0);
        let mut child = command
            .spawn()
            .map_err(|error| failed("start the receiver", &self.program, &error))?;
        if let Some(pid) = child.id() {
            let path = self.folder.join("receiver.pid");
            std::fs::write(&path, pid.to_string()).map_err(|error| failed("write", &path, &error))?;
        }
        let stdout = child
            .stdout
            .take()
            .ok_or_else(|| ProviderError::Failed("the receiver has no output".to_owned()))?;
        let listening = tokio::time::timeout(START_TIMEOUT, first_line(stdout)).await;
        match listening {
            Ok(Some(address)) => Ok((child, address)),
            Ok(None) | Err(_) => {
                drop(child.kill().await);
                Err(ProviderError::Failed(format!(
                    "the receiver does not listen at {}: see {}",
                    self.listen,
                    self.folder.join("receiver.log").display()
                )))
            }
        }
    }
}

/// Reads the line that says where the receiver listens, and leaves a task that reads on, so that the receiver never
/// waits for a reader.
async fn first_line(stdout: ChildStdout) -> Option<SocketAddr> {
    let mut reader = BufReader::new(stdout);
    let address = loop {
        let mut line = String::new();
        if (&mut reader)
            .take(LINE_BYTES_MAX)
            .read_line(&mut line)
            .await
            .ok()?
            == 0
        {
            return None;
        }
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if event["event"] == "listening" {
            break event["address"].as_str()?.parse().ok()?;
        }
    };
    tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
    Some(address)
}

/// Watches a receiver: starts it again when it dies, ends it when told to.
async fn keep(recipe: Recipe, mut child: Child, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            status = child.wait() => {
                tracing::warn!(folder = %recipe.folder.display(), ?status, "a receiver ended by itself; starting it again");
            }
            () = told(&mut stopped) => {
                end_child(&mut child).await;
                break;
            }
        }
        child = loop {
            tokio::select! {
                () = tokio::time::sleep(RESTART_PAUSE) => {}
                () = told(&mut stopped) => return remove_traces(&recipe.folder),
            }
            match recipe.spawn().await {
                Ok((child, _)) => break child,
                Err(error) => tracing::error!(%error, "a receiver does not start again"),
            }
        };
    }
    remove_traces(&recipe.folder);
}

/// Returns when the receiver is to end.
async fn told(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stop| *stop).await);
}

fn remove_traces(folder: &Path) {
    for name in ["secret", "receiver.pid"] {
        drop(std::fs::remove_file(folder.join(name)));
    }
}

/// Sends a signal; a process that is gone needs none.
fn send(pid: i32, signal: Signal) {
    if let Err(error) = kill(Pid::from_raw(pid), signal) {
        tracing::debug!(pid, %error, "a receiver was gone already");
    }
}

async fn end_child(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        send(pid, Signal::SIGTERM);
    }
    if tokio::time::timeout(END_TIMEOUT, child.wait()).await.is_err() {
        drop(child.kill().await);
    }
}

/// Ends a receiver that an earlier control plane left behind. It is known by its secret file among its arguments, so that
/// a process that merely has the same number is left alone.
pub(super) async fn end_leftover(folder: &Path) {
    let Some(pid) = leftover(folder) else { return };
    send(pid, Signal::SIGTERM);
    let steps = END_TIMEOUT.as_millis() / 50;
    for _ in 0..steps {
        if leftover(folder).is_none() {
            return remove_traces(folder);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    send(pid, Signal::SIGKILL);
    remove_traces(folder);
}

fn leftover(folder: &Path) -> Option<i32> {
    let pid: i32 = std::fs::read_to_string(folder.join("receiver.pid"))
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mark = folder.join("secret");
    let is_ours = command
        .split(|byte| *byte == 0)
        .any(|argument| argument == mark.as_os_str().as_encoded_bytes());
    is_ours.then_some(pid).filter(|pid| *pid > 1)
}
