//! The program under test: a control plane whose instances are files that its hooks write, so that what happens to an
//! instance can be looked at, and made to fail.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use csm::client::{Call, Config, Kind};
use csm::{Client, Credential};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) const CSM: (&str, &str) = ("csm", "2021-09-15");
pub(crate) const CVM: (&str, &str) = ("cvm", "2017-03-12");
pub(crate) const OWN: (&str, &str) = ("go2cloud", "2026-11-01");

/// Each hook writes its input to DIR/did and fails while DIR/fail names it.
const HOOK: &str = r#"#!/bin/sh
folder=$(dirname "$(dirname "$0")")
input=$(cat)
printf '%s %s\n' "$GO2CLOUD_HOOK" "$input" >> "$folder/did"
if grep -qx "$GO2CLOUD_HOOK" "$folder/fail" 2>/dev/null; then echo "told to fail" >&2; exit 1; fi
[ "$GO2CLOUD_HOOK" = enter ] && echo '{"Ip":"192.0.2.7","LanIp":"10.0.0.7","Port":4433}'
exit 0
"#;

pub(crate) struct Plane {
    process: Child,
    pub(crate) address: String,
    pub(crate) fingerprint: Option<String>,
    folder: TempDir,
    options: Vec<String>,
    pub(crate) key: (String, String),
    runtime: Runtime,
    client: Client,
}

impl Drop for Plane {
    /// In order, so that local receivers end with it; by force if it does not listen.
    fn drop(&mut self) {
        // One that has ended already has given its number back.
        if !matches!(self.process.try_wait(), Ok(None)) {
            return;
        }
        let _ = signal(&self.process);
        let deadline = Instant::now() + Duration::from_secs(15);
        while Instant::now() < deadline {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks a process to end.
fn signal(process: &Child) -> nix::Result<()> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_go2cloud-control"));
    command
        .env_remove("GO2CLOUD_DATABASE")
        .env_remove("GO2CLOUD_DATA");
    command
}

fn serve(folder: &Path, listen: &str, options: &[String]) -> (Child, String, Option<String>) {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("log"))
        .unwrap();
    let mut process = program()
        .args(["serve", "--json", "--listen", listen, "--hooks"])
        .arg(folder.join("hooks"))
        .arg("--data")
        .arg(folder.join("data"))
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| {
        let _ = process.kill();
        panic!(
            "the control plane did not come up: {}",
            fs::read_to_string(folder.join("log")).unwrap()
        )
    });
    let fingerprint = ready["fingerprint"].as_str().map(str::to_owned);
    (
        process,
        ready["address"].as_str().unwrap().to_owned(),
        fingerprint,
    )
}

fn client(address: &str, credential: Credential) -> Client {
    let endpoint = format!("http://{address}").parse().unwrap();
    Client::new(Config::new(endpoint, "local-1", credential)).unwrap()
}

impl Plane {
    /// One whose instances have hooks, in the clear.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_as(&[&["--plain-http", "--provider", "command"], options].concat())
    }

    /// One with these options only.
    pub(crate) fn start_as(options: &[&str]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("control-life-")
            .tempdir()
            .unwrap();
        let hooks = folder.path().join("hooks");
        fs::create_dir(&hooks).unwrap();
        for hook in [
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
        ] {
            fs::write(hooks.join(hook), HOOK).unwrap();
            fs::set_permissions(hooks.join(hook), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let (process, address, fingerprint) = serve(folder.path(), "127.0.0.1:0", &options);
        let key = new_key(folder.path(), &options);
        let client = client(&address, Credential::new(&*key.0, &*key.1));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            process,
            address,
            fingerprint,
            folder,
            options,
            key,
            runtime,
            client,
        }
    }

    /// Kills the program without warning and starts it again at the same address.
    pub(crate) fn kill_and_start(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let (process, _, fingerprint) = serve(self.folder.path(), &self.address, &self.options);
        self.process = process;
        self.fingerprint = fingerprint;
        // The connections that the client kept are gone with the old process.
        self.client = client(&self.address, Credential::new(&*self.key.0, &*self.key.1));
    }

    /// Asks the program to end, and waits until it has.
    pub(crate) fn end(mut self) {
        signal(&self.process).unwrap();
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// One more key of the account.
    pub(crate) fn new_key(&self) -> (String, String) {
        new_key(self.folder.path(), &self.options)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Runs an administrator's command on the database.
    pub(crate) fn key_command(&self, arguments: &[&str]) -> String {
        let mut command = program();
        command.arg("key").args(arguments).arg("--data").arg(self.data());
        let output = command.args(database_of(&self.options)).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs an administrator's command through the API.
    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Output {
        program()
            .args(arguments)
            .env("GO2CLOUD_ENDPOINT", format!("http://{}", self.address))
            .env("GO2CLOUD_SECRET_ID", &self.key.0)
            .env("GO2CLOUD_SECRET_KEY", &self.key.1)
            .output()
            .unwrap()
    }

    fn call_as(
        &self,
        client: &Client,
        service: (&str, &str),
        action: &str,
        request: &Value,
    ) -> Result<Value, String> {
        let call = Call {
            service: service.0,
            version: service.1,
            action,
        };
        let answer = self.runtime.block_on(client.call_by_name(&call, request));
        answer.map_err(|error| match error.code() {
            Some(code) => code.to_owned(),
            None => panic!("{action} was not answered: {error:?}\n{}", self.log()),
        })
    }

    /// Calls with the account's key: the answer, or the error code.
    pub(crate) fn call(&self, service: (&str, &str), action: &str, request: Value) -> Result<Value, String> {
        self.call_as(&self.client, service, action, &request)
    }

    /// Calls CSM and expects success.
    pub(crate) fn csm(&self, action: &str, request: Value) -> Value {
        self.call(CSM, action, request.clone())
            .unwrap_or_else(|code| panic!("{action} {request}: {code}"))
    }

    /// Calls CSM and expects an error code.
    pub(crate) fn refused(&self, action: &str, request: Value) -> String {
        match self.call(CSM, action, request.clone()) {
            Err(code) => code,
            Ok(answer) => panic!("{action} {request} was allowed: {answer}"),
        }
    }

    /// Exchanges an enrolment code: credentials, or the error code.
    pub(crate) fn enrol(&self, code: &str) -> Result<Agent<'_>, String> {
        let code = csm::Secret::new(code);
        let unsigned = client(&self.address, Credential::default());
        match self.runtime.block_on(unsigned.enrol(&code)) {
            Ok(enrolment) => Ok(Agent {
                plane: self,
                client: client(&self.address, enrolment.credential.clone()),
                credential: enrolment.credential,
            }),
            Err(error) if error.kind() == Kind::Unreachable => panic!("{error:?}"),
            Err(error) => Err(error.code().unwrap_or_default().to_owned()),
        }
    }

    /// Calls with another credential.
    pub(crate) fn call_with(
        &self,
        credential: Credential,
        service: (&str, &str),
        action: &str,
        request: Value,
    ) -> Result<Value, String> {
        self.call_as(&client(&self.address, credential), service, action, &request)
    }

    /// What the hooks did: name and input.
    pub(crate) fn did(&self) -> Vec<(String, Value)> {
        let text = fs::read_to_string(self.folder.path().join("did")).unwrap_or_default();
        // A hook that was killed together with the control plane may have left half a line.
        let line = |line: &str| {
            let (hook, input) = line.split_once(' ')?;
            Some((hook.to_owned(), serde_json::from_str(input).ok()?))
        };
        text.lines().filter_map(line).collect()
    }

    /// Hooks that are to fail from now on.
    pub(crate) fn fail(&self, hooks: &[&str]) {
        fs::write(self.folder.path().join("fail"), hooks.join("\n") + "\n").unwrap();
    }

    /// A registered source.
    pub(crate) fn source(&self, mark: char) -> String {
        self.csm("CreateSourceServer", registration(mark))["SourceServerId"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// An instance.
    pub(crate) fn instance(&self) -> String {
        let made = self
            .call(OWN, "CreateInstance", json!({"SystemDiskSize": 50}))
            .unwrap();
        made["InstanceId"].as_str().unwrap().to_owned()
    }

    /// A job, as found in the list.
    pub(crate) fn job(&self, job_id: &str) -> Value {
        let filters = json!([{"Name": "job-id", "Values": [job_id]}, {"Name": "status", "Values":
            ["PENDING", "RUNNING", "SUCCESS", "FAILED", "STOPPING", "STOPPED", "DELETING", "DELETED"]}]);
        let answer = self.csm("DescribeMigrationJobs", json!({"Filters": filters}));
        assert_eq!(answer["TotalCount"], 1, "{job_id}");
        answer["MigrationJobs"][0].clone()
    }

    pub(crate) fn job_status(&self, job_id: &str) -> String {
        self.job(job_id)["Status"].as_str().unwrap().to_owned()
    }

    /// Whether an instance exists.
    pub(crate) fn instances(&self) -> Vec<String> {
        let answer = self
            .call(CVM, "DescribeInstances", json!({"Limit": 100}))
            .unwrap();
        answer["InstanceSet"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["InstanceId"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until something holds.
    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < deadline, "{what} did not happen\n{}", self.log());
            std::thread::sleep(Duration::from_millis(150));
        }
    }
}

fn database_of(options: &[String]) -> Vec<String> {
    let is_wanted = |pair: &&[String]| pair[0].starts_with("--database");
    options.windows(2).filter(is_wanted).flatten().cloned().collect()
}

fn new_key(folder: &Path, options: &[String]) -> (String, String) {
    let mut command = program();
    command
        .args(["key", "create", "--json", "--data"])
        .arg(folder.join("data"))
        .args(database_of(options));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let key: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |name: &str| key[name].as_str().unwrap().to_owned();
    (text("SecretId"), text("SecretKey"))
}

/// A source with temporary credentials.
pub(crate) struct Agent<'p> {
    plane: &'p Plane,
    client: Client,
    pub(crate) credential: Credential,
}

impl Agent<'_> {
    pub(crate) fn call(&self, service: (&str, &str), action: &str, request: Value) -> Result<Value, String> {
        self.plane.call_as(&self.client, service, action, &request)
    }
}

pub(crate) fn disk() -> Value {
    json!({"Device": "/dev/vda", "Size": 50})
}

/// The registration of a machine whose identifier is one character.
pub(crate) fn registration(mark: char) -> Value {
    json!({"ClientVersion": "2.1.3", "SystemInfo": {"HostName": format!("host-{mark}")}, "ServerInfo": {"Ip": "10.1.1.1"},
        "SystemDiskInfo": disk(), "Architecture": "x86_64", "OsType": "Debian", "Identifier": mark.to_string().repeat(64),
        "DataDisksInfo": [{"Index": 1, "Device": "/dev/vdb", "Size": 10}]})
}

/// The request for a job that migrates a source to an instance.
pub(crate) fn job_to(source: &str, instance: &str) -> Value {
    json!({"SourceServerId": source, "SystemDiskInfo": disk(), "Mode": 0, "TargetRegion": "local-1",
        "TargetType": "Instance", "InstanceId": instance})
}

/// The request for a job that makes an image, started at once.
pub(crate) fn job_to_image(source: &str, name: &str) -> Value {
    json!({"SourceServerId": source, "SystemDiskInfo": disk(), "Mode": 0, "TargetRegion": "local-1",
        "TargetType": "Image", "ImageName": name, "RunMode": "Immediate"})
}
