//! A cloud for a test: control plane, instances, and a host to migrate.

use std::ops::Deref;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::control::{Control, program};
use crate::hooks::{Hooks, Place};
use crate::host::Host;
use crate::process::{Process, command_in};

/// The parts, each ended when dropped. What its one host can do, the cloud can do.
#[derive(Debug)]
pub struct Cloud {
    /// The control plane.
    pub control: Control,
    /// The key of the account.
    pub key: (String, String),
    host: Host,
    hooks: Option<Hooks>,
}

/// An agent that carries out a job.
#[derive(Debug)]
pub struct UnderWay {
    /// The agent.
    pub agent: Process,
    /// The job's target.
    pub instance: String,
    /// The job.
    pub job: String,
}

impl Deref for Cloud {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Cloud {
    /// A control plane with local instances, and an empty source folder.
    ///
    /// # Panics
    /// When a part does not come up.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Control::with_local_instances(&[]), None, None)
    }

    /// A control plane whose instances are made by hooks that a test can hold and break.
    ///
    /// # Panics
    /// When a part does not come up.
    #[must_use]
    pub fn with_hooks() -> Self {
        let hooks = Hooks::new(&Place::default());
        let control = Control::with_hooks(&hooks, "127.0.0.1:0", None);
        Self::with(control, Some(hooks), None)
    }

    /// The same in a network: the control plane in one namespace, the source in another, the instances in `place`.
    ///
    /// # Panics
    /// When a part does not come up.
    #[must_use]
    pub fn in_network(control: (String, &str), source: String, place: &Place) -> Self {
        let hooks = Hooks::new(place);
        let (namespace, listen) = control;
        let control = Control::with_hooks(&hooks, listen, Some(namespace));
        Self::with(control, Some(hooks), Some(source))
    }

    fn with(control: Control, hooks: Option<Hooks>, source: Option<String>) -> Self {
        let key = control.create_key();
        let host = Host::new(&control.address, key.clone());
        let host = match source {
            Some(namespace) => host.inside(namespace),
            None => host,
        };
        Self {
            control,
            key,
            host,
            hooks,
        }
    }

    /// One more machine to migrate, beside the cloud's own.
    ///
    /// # Panics
    /// When there is no room.
    #[must_use]
    pub fn another_host(&self) -> Host {
        Host::new(&self.control.address, self.key.clone())
    }

    /// The tool's folder is carried to another machine of the network.
    pub fn carry_to(&mut self, namespace: String) {
        self.host.carry_to(namespace);
    }

    /// What makes the instances.
    ///
    /// # Panics
    /// When this cloud's instances are local ones.
    #[must_use]
    pub fn hooks(&self) -> &Hooks {
        self.hooks.as_ref().expect("a cloud with hooks")
    }

    /// Runs `go2cloud-control` with the account's key; `line` is split at blanks.
    ///
    /// # Panics
    /// When it fails.
    pub fn admin(&self, line: &str) -> String {
        self.try_admin(line)
            .unwrap_or_else(|said| panic!("{line}: {said}"))
    }

    /// The same for what may be refused.
    ///
    /// # Errors
    /// What the program complained.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_admin(&self, line: &str) -> Result<String, String> {
        let mut command = command_in(self.control.namespace.as_deref(), &program("go2cloud-control"));
        let output = command
            .args(line.split_whitespace())
            .env("GO2CLOUD_ENDPOINT", format!("http://{}", self.control.address))
            .env("GO2CLOUD_SECRET_ID", &self.key.0)
            .env("GO2CLOUD_SECRET_KEY", &self.key.1)
            .output()
            .expect("go2cloud-control runs");
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).expect("UTF-8"))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Calls any action of the migration service, as a program of the user's would: for what the command line lacks.
    ///
    /// # Panics
    /// When there is no python3, or the call is refused.
    pub fn call(&self, action: &str, parameters: &Value) -> Value {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/call.py");
        let mut command = command_in(self.control.namespace.as_deref(), "python3".as_ref());
        let output = command
            .args([script, &self.control.address, action, &parameters.to_string()])
            .env("SECRET_ID", &self.key.0)
            .env("SECRET_KEY", &self.key.1)
            .stdin(Stdio::null())
            .output()
            .expect("python3 runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{action}: {said}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// A new instance: its id.
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
        match &self.hooks {
            Some(hooks) => hooks.path(id, "disk"),
            None => PathBuf::from(member(
                &self.admin(&format!("instance show {id} --json")),
                "Directory",
            )),
        }
    }

    /// Creates a job for a source. Gives its id.
    ///
    /// # Panics
    /// When the control plane refuses.
    pub fn create_job(&self, source: &str, options: &str) -> String {
        let text = self.admin(&format!("job create --source {source} --json {options}"));
        member(&text, "JobId")
    }

    /// Creates a job for a source and starts it. Gives its id.
    ///
    /// # Panics
    /// When the control plane refuses.
    pub fn start_job(&self, source: &str, options: &str) -> String {
        let job = self.create_job(source, options);
        self.admin(&format!("job start {job}"));
        job
    }

    /// Starts the agent, and a job for it with a new instance as its target.
    ///
    /// # Panics
    /// When one of them does not come about.
    #[must_use]
    pub fn under_way(&self, flags: &str, options: &str) -> UnderWay {
        let instance = self.create_instance("");
        let agent = self.start(flags);
        let source = self.wait_for_source();
        let job = self.start_job(&source, &format!("--instance {instance} {options}"));
        UnderWay { agent, instance, job }
    }

    /// A job in JSON.
    #[must_use]
    pub fn job(&self, id: &str) -> String {
        self.admin(&format!("job show {id} --json"))
    }

    /// Progress of a job in percent.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn progress(&self, job: &str) -> f64 {
        let shown: Value = serde_json::from_str(&self.job(job)).expect("JSON");
        shown["Progress"].as_f64().expect("a number")
    }

    /// Waits until more than `percent` of a job is done.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_for_progress(&self, job: &str, percent: f64) {
        self.wait("some progress", || (self.progress(job) > percent).then_some(()));
    }

    /// Waits until a job has reported a message with `text`.
    ///
    /// # Panics
    /// When that takes too long.
    pub fn wait_for_message(&self, job: &str, text: &str) {
        self.wait(text, || self.job(job).contains(text).then_some(()));
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

    /// Compares the source with an instance, byte by byte.
    ///
    /// # Panics
    /// When they differ.
    pub fn assert_arrived(&self, instance: &str) {
        self.assert_equal(&self.instance_folder(instance));
    }
}

impl Default for Cloud {
    fn default() -> Self {
        Self::new()
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
