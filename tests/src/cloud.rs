//! A cloud for a test: control plane, one local instance, a source folder, and the agent as a user has it unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::compare::{Options, compare};
use crate::control::{Control, program};
use crate::dice::Dice;

/// Longest wait for anything: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// The parts, each ended when dropped.
#[derive(Debug)]
pub struct Cloud {
    /// The control plane.
    pub control: Control,
    /// The key of the account.
    pub key: (String, String),
    folder: TempDir,
}

/// A running agent, killed when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Child,
}

impl Cloud {
    /// A control plane with local instances, and an empty source folder.
    ///
    /// # Panics
    /// When a part does not come up.
    #[must_use]
    pub fn new() -> Self {
        let control = Control::with_local_instances(&[]);
        let key = control.create_key();
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
        Self { control, key, folder }
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
        let mut bytes = vec![0; 1 << 20];
        for number in 0..large {
            dice.fill(&mut bytes);
            fs::write(source.join(format!("large {number}")), &bytes).expect("a file");
        }
        std::os::unix::fs::symlink("folder 1/file 1", source.join("link")).expect("a link");
    }

    /// Runs `go2cloud-control` with the account's key; `line` is split at blanks.
    ///
    /// # Panics
    /// When it fails.
    pub fn admin(&self, line: &str) -> String {
        let output = Command::new(program("go2cloud-control"))
            .args(line.split_whitespace())
            .env("GO2CLOUD_ENDPOINT", format!("http://{}", self.control.address))
            .env("GO2CLOUD_SECRET_ID", &self.key.0)
            .env("GO2CLOUD_SECRET_KEY", &self.key.1)
            .output()
            .expect("go2cloud-control runs");
        assert!(
            output.status.success(),
            "{line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// A new instance: its id, and the folder or image that it is.
    ///
    /// # Panics
    /// When the control plane refuses.
    #[must_use]
    pub fn create_instance(&self, options: &str) -> String {
        let text = self.admin(&format!("instance create --json {options}"));
        member(&text, "InstanceId")
    }

    /// Where an instance keeps its data.
    ///
    /// # Panics
    /// When there is no such instance.
    #[must_use]
    pub fn instance_folder(&self, id: &str) -> PathBuf {
        PathBuf::from(member(
            &self.admin(&format!("instance show {id} --json")),
            "Directory",
        ))
    }

    /// The agent's command with what every run needs; `line` is split at blanks.
    #[must_use]
    pub fn tool(&self, line: &str) -> Command {
        let mut command = Command::new(self.path("tool/go2cloud_x64"));
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
            "-region local-1 -endpoint http://{} --source-root {}",
            self.control.address,
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

    /// Starts the agent; what it says goes to `tool/said`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(&self, line: &str) -> Agent {
        let said = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("tool/said"))
            .expect("a file");
        let mut command = self.tool(&format!("{} {line}", self.flags()));
        command
            .stdout(said.try_clone().expect("a second handle"))
            .stderr(said);
        Agent {
            process: command.spawn().expect("the agent starts"),
        }
    }

    /// What the agent said so far, and its log.
    #[must_use]
    pub fn said(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.path(name)).unwrap_or_default();
        format!("{}\n--- log ---\n{}", read("tool/said"), read("tool/logs/log"))
    }

    /// Waits until the agent is registered. Gives the id of the source.
    ///
    /// # Panics
    /// When that takes too long.
    #[must_use]
    pub fn wait_for_source(&self) -> String {
        self.wait("the source to be registered", || {
            self.said()
                .contains("Import source server successfully")
                .then(|| {
                    let list = self.admin("source list --json");
                    list.contains("\"SourceServerId\"")
                        .then(|| member(&list, "SourceServerId"))
                })?
        })
    }

    /// A job in JSON.
    #[must_use]
    pub fn job(&self, id: &str) -> String {
        self.admin(&format!("job show {id} --json"))
    }

    /// Waits until a job has a status; any end that is not wanted ends the test at once.
    ///
    /// # Panics
    /// When that takes too long, or the job ends otherwise.
    pub fn wait_for(&self, job: &str, status: &str) -> String {
        self.wait(status, || {
            let shown = self.job(job);
            let now = member(&shown, "Status");
            assert!(
                now == status || !["FAILED", "SUCCESS"].contains(&now.as_str()),
                "job is {now}, not {status}: {shown}\n{}",
                self.said()
            );
            (now == status).then_some(shown)
        })
    }

    /// Waits until `what` happens.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait<T>(&self, what: &str, mut happened: impl FnMut() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = happened() {
                return value;
            }
            assert!(Instant::now() < end, "waited in vain for {what}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Compares the source with an instance, byte by byte.
    ///
    /// # Panics
    /// When they differ.
    pub fn assert_arrived(&self, instance: &str) {
        self.assert_equal(&self.instance_folder(instance));
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

impl Default for Cloud {
    fn default() -> Self {
        Self::new()
    }
}

impl Agent {
    /// Ends it as a power cut would.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn kill(mut self) {
        assert!(
            self.process.try_wait().expect("its state").is_none(),
            "it has ended already"
        );
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it ends");
    }

    /// Asks it to end as a user does with Ctrl-C, and gives its exit code.
    ///
    /// # Panics
    /// When it has no exit code.
    pub fn interrupt(mut self) -> i32 {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it runs");
        self.process
            .wait()
            .expect("it ends")
            .code()
            .expect("an exit code")
    }

    /// Waits for its end and gives its exit code.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait(mut self) -> i32 {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("its state") {
                return status.code().expect("an exit code");
            }
            assert!(Instant::now() < end, "the agent does not end");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The first text member `name` of a JSON document.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn member(json: &str, name: &str) -> String {
    let after = json.split_once(&format!("\"{name}\"")).map(|(_, rest)| rest);
    let value = after.and_then(|rest| rest.split('"').nth(1)).map(str::to_owned);
    value.unwrap_or_else(|| panic!("{name} is missing in {json}"))
}
