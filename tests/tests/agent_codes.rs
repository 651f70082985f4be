//! Each of the fourteen error codes, raised in its situation by the programs: as the job's result, with its remedy, and
//! gone when the remedy is followed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::fs;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;

use go2cloud_tests::cloud::Cloud;
use go2cloud_tests::host::Host;
use go2cloud_tests::medium::{Format, Medium};
use go2cloud_tests::process::Process;
use rustix::process::Signal;
use serde_json::{Value, json};

/// Brings about the situation of a code, and follows its remedy.
type Situation = fn(&Trial<'_>);

/// Code, words of its remedy, the situation.
const CASES: [(&str, &str, Situation); 14] = [
    (
        "ERROR_REMOTE_INSTANCE_STATUS_NOT_VALID",
        "running or stopped",
        instance_status,
    ),
    ("ERROR_SAME_INSTANCE", "choose another target", same_instance),
    ("ERROR_NO_IPV6", "use IPv4", no_ipv6),
    (
        "ERROR_NO_PUBLIC_IP",
        "bind a public address to the target, or use a private mode",
        no_public_ip,
    ),
    (
        "ERROR_SAME_IP",
        "use the public mode, or change the target's private address",
        same_ip,
    ),
    (
        "ERROR_OS_NOT_MATCH",
        "a target of the same system family",
        os_not_match,
    ),
    (
        "ERROR_INSTANCE_TYPE_NOT_SUPPORTED",
        "migrate to an image",
        instance_type,
    ),
    (
        "ERROR_SEC_GROUP_PORT_NOT_OPEN3",
        "open the ports 80, 443 and 3389",
        security_group,
    ),
    (
        "ERROR_ADD_MORE_DISK",
        "at least as many data disks",
        add_more_disk,
    ),
    (
        "ERROR_SYSTEM_DISK_SIZE_NOT_ENOUGH",
        "enlarge the target's system disk",
        system_disk_size,
    ),
    (
        "ERROR_ENTER_MIGRATE_MODE",
        "ask the cloud's support",
        enter_migrate_mode,
    ),
    (
        "ERROR_HOST_TO_HOST_CONNECTION",
        "check routes and firewalls",
        connection,
    ),
    ("ERROR_INIT_SERVER", "look at the receiver's log", init_server),
    ("ERROR_DATA_TRANSMISSION", "repair the cause", transmission),
];

/// One source of the shared bed, and what is expected of its job.
struct Trial<'a> {
    cloud: &'a Cloud,
    /// Ends before the folder that it writes to.
    agent: RefCell<Option<Process>>,
    host: Host,
    code: &'static str,
    remedy: &'static str,
}

impl Trial<'_> {
    /// A new instance behind hooks.
    fn instance(&self, options: &str) -> String {
        self.cloud.create_instance(options)
    }

    /// Declares a receiver at `address`, whether there is one or not.
    fn declare(&self, address: &str) -> String {
        let key = self.host.path("key");
        fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
        let key = key.display();
        self.instance(&format!(
            "--address {address} --lan-address {address} --secret-file {key}"
        ))
    }

    /// Starts the agent, or starts it anew with other flags.
    fn start(&self, flags: &str) -> String {
        self.start_command(
            &mut self
                .host
                .tool(&format!("{} -ignore-check {flags}", self.host.flags())),
        )
    }

    fn start_command(&self, command: &mut Command) -> String {
        self.agent.borrow_mut().take();
        *self.agent.borrow_mut() = Some(self.host.spawn(command));
        self.host.wait_for_source()
    }

    /// Runs a job that fails with the code. `meanwhile` happens after its start and before the agent sees it.
    fn fails(&self, source: &str, options: &str, meanwhile: impl FnOnce()) -> String {
        let signal = |signal| self.agent.borrow().as_ref().unwrap().signal(signal);
        signal(Signal::STOP);
        let job = self.cloud.start_job(source, options);
        meanwhile();
        signal(Signal::CONT);
        let reported = format!("go2cloud: {}", self.code);
        self.host
            .wait(&reported, || self.host.said().contains(&reported).then_some(()));
        let shown: Value = serde_json::from_str(&self.cloud.job(&job)).unwrap();
        assert_eq!(shown["Status"], "FAILED", "{shown}");
        let description = &shown["MigrateResults"]["Desc"];
        assert_eq!(description["ErrorId"], self.code, "{shown}");
        let message = description["ErrorMessage"].as_str().unwrap();
        assert!(message.contains(self.remedy), "{message}");
        let told = shown["LastReportMessage"].to_string();
        assert!(told.contains(self.code) && told.contains(self.remedy), "{told}");
        job
    }

    /// The same job once more: it succeeds.
    fn again(&self, job: &str, instance: &str) {
        self.cloud.admin(&format!("job start {job}"));
        self.succeeds(job, instance);
    }

    /// Another job for another target: it succeeds.
    fn elsewhere(&self, source: &str, job: &str) {
        self.cloud.admin(&format!("job delete {job}"));
        let instance = self.instance("");
        let job = self.cloud.start_job(source, &format!("--instance {instance}"));
        self.succeeds(&job, &instance);
    }

    fn succeeds(&self, job: &str, instance: &str) {
        let done = "Migrate successfully.";
        self.host
            .wait(done, || self.host.said().contains(done).then_some(()));
        let shown: Value = serde_json::from_str(&self.cloud.job(job)).unwrap();
        assert_eq!(shown["Status"], "SUCCESS", "{shown}");
        self.host.assert_equal(&self.cloud.hooks().path(instance, "disk"));
    }
}

fn instance_status(trial: &Trial<'_>) {
    let instance = trial.instance("");
    let source = trial.start("");
    trial.cloud.hooks().hold(&instance, "stop");
    let job = trial.fails(&source, &format!("--instance {instance}"), || {
        trial.cloud.admin(&format!("instance stop {instance}"));
    });
    trial.cloud.hooks().release(&instance, "stop");
    trial.host.wait("the instance to be stopped", || {
        let shown = trial.cloud.admin(&format!("instance show {instance} --json"));
        shown.contains("\"STOPPED\"").then_some(())
    });
    trial.again(&job, &instance);
}

/// The machine's firmware names a UUID, in what this one process sees of /sys.
fn same_instance(trial: &Trial<'_>) {
    const UUID: &str = "4c4c4544-0042-3510-8052-b4c04f564433";
    const SCRIPT: &str = "folder=$1; uuid=$2; shift 2
        mkdir \"$folder\" && mount -t tmpfs none \"$folder\" || exit 1
        cp -a /sys/class/. \"$folder/\" 2> /dev/null
        rm -rf \"$folder/dmi\" && mkdir -p \"$folder/dmi/id\" && echo \"$uuid\" > \"$folder/dmi/id/product_uuid\" || exit 1
        mount --bind \"$folder\" /sys/class && exec \"$@\"";
    let instance = trial.instance(&format!("--uuid {UUID}"));
    let plain = trial.host.tool(&format!("{} -ignore-check", trial.host.flags()));
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", SCRIPT, "sh"])
        .arg(trial.host.path("class"))
        .arg(UUID.to_uppercase())
        .arg(plain.get_program())
        .args(plain.get_args())
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let source = trial.start_command(&mut command);
    let job = trial.fails(&source, &format!("--instance {instance}"), || {});
    trial.elsewhere(&source, &job);
}

fn no_ipv6(trial: &Trial<'_>) {
    let wants = |ipv6: bool| {
        let text = format!(r#"{{"Client": {{"Net": {{"Proxy": {{"IpV6": {ipv6}}}}}}}}}"#);
        trial.host.configure("client.json", &text);
    };
    let instance = trial.instance("");
    wants(true);
    let source = trial.start("");
    let job = trial.fails(&source, &format!("--instance {instance}"), || {});
    wants(false);
    trial.start("");
    trial.again(&job, &instance);
}

fn no_public_ip(trial: &Trial<'_>) {
    let instance = trial.instance("");
    trial
        .cloud
        .hooks()
        .answer(&instance, r#"{"Ip": "", "LanIp": "127.0.0.1", "Port": 9}"#);
    let source = trial.start("");
    let job = trial.fails(&source, &format!("--instance {instance}"), || {});
    fs::remove_file(trial.cloud.hooks().path(&instance, "answer")).unwrap();
    trial.again(&job, &instance);
}

/// An address of this machine that is not the loopback one.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: the kernel only chooses the address that it would send from.
    socket.connect("192.0.2.1:9").unwrap();
    socket.local_addr().unwrap().ip()
}

fn same_ip(trial: &Trial<'_>) {
    let instance = trial.declare(&format!("{}:443", own_address()));
    let source = trial.start("");
    let job = trial.fails(&source, &format!("--instance {instance} --mode 2"), || {});
    trial.elsewhere(&source, &job);
}

/// A machine that ran Windows when it was imported, and was reinstalled with Linux since.
fn os_not_match(trial: &Trial<'_>) {
    let source = trial.start("");
    trial.agent.borrow_mut().take();
    let filters = json!({"Filters": [{"Name": "source-server-id", "Values": [source]}]});
    let known = trial.cloud.call("DescribeSourceServers", &filters)["SourceServers"][0].clone();
    trial.cloud.admin(&format!("source delete {source}"));
    let mut registration = json!({"ClientVersion": "1.0.0", "OsType": "windows"});
    for name in [
        "SystemInfo",
        "ServerInfo",
        "SystemDiskInfo",
        "Architecture",
        "Identifier",
        "Name",
    ] {
        registration[name] = known[name].clone();
    }
    let source = trial.cloud.call("CreateSourceServer", &registration)["SourceServerId"].clone();
    let source = source.as_str().unwrap();
    fs::remove_file(trial.host.path("tool/logs/log")).unwrap();
    assert_eq!(trial.start(""), source);
    let instance = trial.instance("--os windows");
    let job = trial.fails(source, &format!("--instance {instance}"), || {});
    trial.cloud.admin(&format!("job delete {job}"));
    trial.agent.borrow_mut().take();
    trial.cloud.admin(&format!("source delete {source}"));
    fs::remove_file(trial.host.path("tool/logs/log")).unwrap();
    let (source, instance) = (trial.start(""), trial.instance(""));
    let job = trial.cloud.start_job(&source, &format!("--instance {instance}"));
    trial.succeeds(&job, &instance);
}

fn instance_type(trial: &Trial<'_>) {
    let instance = trial.instance("--type BMS5.24XLARGE");
    let source = trial.start("");
    let job = trial.fails(&source, &format!("--instance {instance}"), || {});
    trial.elsewhere(&source, &job);
}

fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn security_group(trial: &Trial<'_>) {
    let instance = trial.declare(&format!("127.0.0.1:{}", closed_port()));
    let source = trial.start("");
    let job = trial.fails(&source, &format!("--instance {instance}"), || {});
    trial.elsewhere(&source, &job);
}

fn add_more_disk(trial: &Trial<'_>) {
    let media = [(), ()].map(|()| Medium::new(Format::Ext4, 32).unwrap());
    let disks = media
        .each_ref()
        .map(|medium| format!("--source-disk {}", medium.device().unwrap().display()));
    let instance = trial.instance("--system-disk 1");
    let flags = trial.host.flags();
    let control = flags.split(" --source-root").next().unwrap();
    let line = format!("{control} -ignore-check {}", disks.join(" "));
    let source = trial.start_command(&mut trial.host.tool(&line));
    let job = trial.fails(&source, &format!("--block --instance {instance}"), || {});
    // With enough disks the target is taken; that disks arrive is shown elsewhere.
    trial.cloud.admin(&format!("job delete {job}"));
    let enough = trial.instance("--system-disk 1 --data-disk 1");
    trial.cloud.hooks().hold(&enough, "enter");
    trial
        .cloud
        .start_job(&source, &format!("--block --instance {enough}"));
    trial.cloud.hooks().wait_for(&enough, "enter");
}

fn system_disk_size(trial: &Trial<'_>) {
    // Allocated, but never written: it needs room and costs nothing to copy.
    let large = fs::File::create(trial.host.path("source/reserved")).unwrap();
    rustix::fs::fallocate(&large, rustix::fs::FallocateFlags::empty(), 0, 3 << 29).unwrap();
    let instance = trial.instance("--system-disk 1");
    let source = trial.start("");
    let job = trial.fails(&source, &format!("--instance {instance}"), || {});
    trial.start("-minify");
    trial.again(&job, &instance);
}

fn enter_migrate_mode(trial: &Trial<'_>) {
    let instance = trial.instance("");
    trial.cloud.hooks().fail(&instance, "enter", "no host has room");
    let source = trial.start("");
    let job = trial.fails(&source, &format!("--instance {instance}"), || {});
    assert!(trial.cloud.job(&job).contains("no host has room"));
    fs::remove_file(trial.cloud.hooks().path(&instance, "fail-enter")).unwrap();
    trial.again(&job, &instance);
}

fn connection(trial: &Trial<'_>) {
    let instance = trial.instance("");
    let answer = json!({"Ip": "127.0.0.1", "LanIp": "127.0.0.1", "Port": closed_port()});
    trial.cloud.hooks().answer(&instance, &answer.to_string());
    let source = trial.start("");
    let job = trial.fails(&source, &format!("--instance {instance}"), || {});
    fs::remove_file(trial.cloud.hooks().path(&instance, "answer")).unwrap();
    trial.again(&job, &instance);
}

/// The data are there, but the target's side does not come out of migration mode.
fn init_server(trial: &Trial<'_>) {
    let instance = trial.instance("");
    trial
        .cloud
        .hooks()
        .fail(&instance, "exit", "the system does not boot");
    let source = trial.start("");
    let job = trial.fails(&source, &format!("--instance {instance}"), || {});
    let shown: Value = serde_json::from_str(&trial.cloud.job(&job)).unwrap();
    assert_eq!(shown["MigrateResult"]["Result"], "malformedFailed", "{shown}");
    assert_eq!(
        shown["MigrateResult"]["State"], "Failed exitLiveMigrateInstance",
        "{shown}"
    );
    fs::remove_file(trial.cloud.hooks().path(&instance, "fail-exit")).unwrap();
    trial.again(&job, &instance);
}

/// A file system that takes nothing, unmounted when dropped.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    fn new(path: &'a Path) -> Self {
        fs::create_dir(path).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "ro", "none"]).arg(path);
        assert!(command.status().unwrap().success());
        Self(path)
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn transmission(trial: &Trial<'_>) {
    let instance = trial.instance("");
    let folder = trial.cloud.hooks().path(&instance, "disk/folder 1");
    let broken = ReadOnly::new(&folder);
    let source = trial.start("");
    let job = trial.fails(&source, &format!("--instance {instance}"), || {});
    drop(broken);
    trial.again(&job, &instance);
}

#[test]
fn every_code_is_raised_with_its_remedy_which_helps() {
    let cloud = Cloud::with_hooks();
    std::thread::scope(|scope| {
        let trials = CASES.map(|(code, remedy, situation)| {
            let trial = Trial {
                cloud: &cloud,
                host: cloud.another_host(),
                code,
                remedy,
                agent: RefCell::default(),
            };
            trial.host.fill_source(CASES.len() as u64, 0);
            let case = move || situation(&trial);
            (code, scope.spawn(case))
        });
        let failed: Vec<&str> = trials
            .into_iter()
            .filter_map(|(code, trial)| trial.join().is_err().then_some(code))
            .collect();
        assert!(failed.is_empty(), "{failed:?}; see above");
    });
}
