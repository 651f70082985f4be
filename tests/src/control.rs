//! A control plane for a test: the real program, in a folder of its own, on a port of its own. Ends when dropped.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::cloud::member;
use crate::hooks::Hooks;
use crate::process::{Process, command_in};

/// Hooks that do nothing and succeed, for a control plane whose instances only have to be told of.
pub const HOOKS: [&str; 10] = [
    "create",
    "destroy",
    "enter",
    "exit",
    "start",
    "stop",
    "reboot",
    "image",
    "discard-image",
    "import",
];

/// A program of this workspace, built beside the tests.
///
/// # Panics
/// When it is not there, with the command that builds it.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let mut folder = std::env::current_exe().expect("the test knows where it is");
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: build the workspace first (cargo build)",
        path.display()
    );
    path
}

/// A running control plane, in the clear on the loopback network unless it is told otherwise.
#[derive(Debug)]
pub struct Control {
    process: Option<Process>,
    /// `address:port`.
    pub address: String,
    /// The network namespace that it runs in.
    pub namespace: Option<String>,
    folder: TempDir,
    options: Vec<String>,
}

impl Control {
    /// Starts one whose instances have hooks that do nothing.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn with_empty_hooks(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let hooks = folder.path().join("hooks");
        fs::create_dir(&hooks).expect("a folder for hooks");
        for hook in HOOKS {
            let path = hooks.join(hook);
            let answer = if hook == "enter" {
                r#"{"Ip":"127.0.0.1","LanIp":"127.0.0.1","Port":443}"#
            } else {
                ""
            };
            fs::write(
                &path,
                format!("#!/bin/sh\ncat > /dev/null\nprintf '%s' '{answer}'\n"),
            )
            .expect("a hook");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a hook that can be run");
        }
        let mut all: Vec<String> = vec!["--provider".into(), "command".into(), "--hooks".into()];
        all.push(hooks.display().to_string());
        all.extend(options.iter().map(|option| (*option).to_owned()));
        Self::start(folder, "127.0.0.1:0", all, None)
    }

    /// Starts one whose instances are folders or images on this machine, each with a receiver while it is in migration
    /// mode.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn with_local_instances(options: &[&str]) -> Self {
        let mut all: Vec<String> = vec!["--provider".into(), "local".into()];
        all.extend(options.iter().map(|option| (*option).to_owned()));
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::start(folder, "127.0.0.1:0", all, None)
    }

    /// Starts one whose instances are made by `hooks`, at an address of a network namespace.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn with_hooks(hooks: &Hooks, listen: &str, namespace: Option<String>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut options = hooks.options();
        // A test with many sources looks at their jobs with one key.
        options.extend(["--rate-limit", "1000"].map(str::to_owned));
        Self::start(folder, listen, options, namespace)
    }

    fn start(folder: TempDir, listen: &str, options: Vec<String>, namespace: Option<String>) -> Self {
        let mut control = Self {
            process: None,
            address: listen.to_owned(),
            namespace,
            folder,
            options,
        };
        control.start_again();
        control
    }

    /// A new key of the account: its id and its secret.
    ///
    /// # Panics
    /// When the program refuses.
    #[must_use]
    pub fn create_key(&self) -> (String, String) {
        let output = Command::new(program("go2cloud-control"))
            .args(["key", "create", "--json", "--data"])
            .arg(self.folder.path().join("data"))
            .output()
            .expect("go2cloud-control runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        (member(&text, "SecretId"), member(&text, "SecretKey"))
    }

    /// Kills it as a power cut would, and starts it again on the same address and data.
    ///
    /// # Panics
    /// When it does not come back.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Kills it as a power cut would.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.process.take().expect("it was running").kill();
    }

    /// Starts it on the address and data that it had.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_again(&mut self) {
        let (process, address) = serve(
            self.folder.path(),
            &self.address,
            &self.options,
            self.namespace.as_deref(),
        );
        (self.process, self.address) = (Some(process), address);
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }
}

fn serve(folder: &Path, listen: &str, options: &[String], namespace: Option<&str>) -> (Process, String) {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .expect("a log");
    let (ready, ready_inside) = std::io::pipe().expect("a pipe");
    let mut command = command_in(namespace, &program("go2cloud-control"));
    command
        .args(["serve", "--plain-http", "--listen", listen, "--data"])
        .arg(folder.join("data"))
        .args(options)
        .stdin(Stdio::null())
        .stdout(ready_inside)
        .stderr(log);
    let process = Process::start(&mut command);
    // Our own end of what it prints to: without this, its end would never be seen.
    drop(command);
    let mut lines = BufReader::new(ready).lines();
    let address = lines.find_map(|line| {
        let line = line.ok()?;
        let rest = line.split_once("listening on http://")?.1;
        Some(rest.split_whitespace().next()?.trim_end_matches('/').to_owned())
    });
    let Some(address) = address else {
        let said = fs::read_to_string(folder.join("log")).unwrap_or_default();
        panic!("go2cloud-control did not come up:\n{said}");
    };
    // What it prints later must not fill the pipe.
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = writeln!(std::io::sink(), "{line}");
        }
    });
    (process, address)
}
