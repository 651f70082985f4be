//! A machine to be migrated: a source folder, and the agent as its user has unpacked it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::compare::{Options, compare};
use crate::control::program;
use crate::dice::Dice;
use crate::process::{Process, command_in, wait_until};

/// A source; what runs on it ends by itself or with its guard.
#[derive(Debug)]
pub struct Host {
    folder: TempDir,
    endpoint: String,
    key: (String, String),
    namespace: Option<String>,
}

impl Host {
    /// An empty source folder, and the program with its configuration files as they are shipped.
    ///
    /// # Panics
    /// When there is no room.
    #[must_use]
    pub fn new(control: &str, key: (String, String)) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("go2cloud-cloud-")
            .tempdir()
            .expect("a temporary folder");
        for name in ["source", "tool"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let tool = folder.path().join("tool/go2cloud_x64");
        if fs::hard_link(program("go2cloud"), &tool).is_err() {
            fs::copy(program("go2cloud"), &tool).expect("a copy of the program");
        }
        Self {
            endpoint: format!("http://{control}"),
            key,
            folder,
            namespace: None,
        }
    }

    /// The same, in a network namespace.
    #[must_use]
    pub fn inside(mut self, namespace: String) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// The tool's folder is carried to another machine of the network.
    pub fn carry_to(&mut self, namespace: String) {
        self.namespace = Some(namespace);
    }

    /// A path in the test's folder: `source`, `tool` and `state` are there.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Fills the source: some small files, a link, and `large` files of one MiB that do not compress.
    ///
    /// # Panics
    /// When there is no room.
    pub fn fill_source(&self, seed: u64, large: usize) {
        let mut dice = Dice::new(seed);
        let source = self.path("source");
        for number in 0..100 {
            let folder = source.join(format!("folder {}", number % 7));
            fs::create_dir_all(&folder).expect("a folder");
            let mut bytes = vec![0; 100 + number * 37];
            dice.fill(&mut bytes);
            fs::write(folder.join(format!("file {number}")), bytes).expect("a file");
        }
        self.write_large(seed + 1000, large);
        std::os::unix::fs::symlink("folder 1/file 1", source.join("link")).expect("a link");
    }

    /// Writes the files of one MiB anew: the same names, other contents.
    ///
    /// # Panics
    /// When there is no room.
    pub fn write_large(&self, seed: u64, large: usize) {
        let mut dice = Dice::new(seed);
        let mut bytes = vec![0; 1 << 20];
        for number in 0..large {
            dice.fill(&mut bytes);
            fs::write(self.path("source").join(format!("large {number}")), &bytes).expect("a file");
        }
    }

    /// A configuration file beside the program.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&self, name: &str, text: &str) {
        fs::write(self.path("tool").join(name), text).expect("a configuration file");
    }

    /// The agent's command with what every run needs; `line` is split at blanks.
    #[must_use]
    pub fn tool(&self, line: &str) -> Command {
        let mut command = command_in(self.namespace.as_deref(), &self.path("tool/go2cloud_x64"));
        command
            .args(line.split_whitespace())
            .arg("--state")
            .arg(self.path("state"))
            .env("GO2CLOUD_SECRET_ID", &self.key.0)
            .env("GO2CLOUD_SECRET_KEY", &self.key.1)
            .stdin(Stdio::null());
        command
    }

    /// The usual flags of a run that migrates the source folder.
    #[must_use]
    pub fn flags(&self) -> String {
        format!(
            "-region local-1 -endpoint {} --source-root {}",
            self.endpoint,
            self.path("source").display()
        )
    }

    /// Runs the agent to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, line: &str) -> Output {
        let command = format!("{} {line}", self.flags());
        self.tool(&command).output().expect("the agent runs")
    }

    /// The same for a run that must succeed. Gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run_well(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{line}: {output:?}\n{}",
            self.said()
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Starts the agent; what it says goes to `tool/said`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(&self, line: &str) -> Process {
        self.spawn(&mut self.tool(&format!("{} {line}", self.flags())))
    }

    /// Starts a command; what it says goes to `tool/said`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(&self, command: &mut Command) -> Process {
        let said = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("tool/said"))
            .expect("a file");
        command
            .stdout(said.try_clone().expect("a second handle"))
            .stderr(said);
        Process::start(command)
    }

    /// The agent's log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("tool/logs/log")).unwrap_or_default()
    }

    /// What the agent said so far, and its log.
    #[must_use]
    pub fn said(&self) -> String {
        let said = fs::read_to_string(self.path("tool/said")).unwrap_or_default();
        format!("{said}\n--- log ---\n{}", self.log())
    }

    /// Waits until the agent is registered. Gives the id of the source.
    ///
    /// # Panics
    /// When that takes too long.
    #[must_use]
    pub fn wait_for_source(&self) -> String {
        self.wait("the source to be registered", || {
            let log = self.log();
            let line = log
                .lines()
                .rev()
                .find(|line| line.contains("Import source server successfully"))?;
            Some(line.split_once("source=\"")?.1.split_once('"')?.0.to_owned())
        })
    }

    /// Waits until the log has a line with `text`, looking often: what is logged may last for milliseconds only.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_for_log(&self, text: &str) {
        let look = || self.log().contains(text).then_some(());
        wait_until(text, Duration::from_millis(3), look, || self.said());
    }

    /// Waits until `what` happens.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait<T>(&self, what: &str, happened: impl FnMut() -> Option<T>) -> T {
        wait_until(what, Duration::from_millis(200), happened, || self.said())
    }

    /// Compares the source with a folder, byte by byte.
    ///
    /// # Panics
    /// When they differ.
    pub fn assert_equal(&self, target: &Path) {
        let options = Options {
            projects: false,
            ..Options::default()
        };
        compare(&self.path("source"), target, options).assert_equal();
    }
}
