//! The program as its users type it: refusals, exit codes, help, and keys that do not stay in the process list.
#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it should be"
)]

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use transfer::progress::{Silent, StopFlag};
use transfer::secret::Secret;
use transfer::target::{Receiver, ServePlan, TargetVolume};

/// The program in a folder of its own, so that its logs and configuration files are its own.
struct Tool {
    folder: tempfile::TempDir,
}

impl Tool {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("go2cloud_x64");
        fs::hard_link(env!("CARGO_BIN_EXE_go2cloud"), &program)
            .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_go2cloud"), &program).map(drop))
            .unwrap();
        Self { folder }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(self.folder.path().join("go2cloud_x64"));
        command
            .args(line.split_whitespace())
            .arg(format!("--state={}", self.folder.path().join("state").display()))
            .env_remove("GO2CLOUD_SECRET_ID")
            .env_remove("GO2CLOUD_SECRET_KEY")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An endpoint at which nothing listens.
fn closed() -> String {
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    address.to_string()
}

#[test]
fn everything_wrong_is_refused_at_once() {
    let tool = Tool::new();
    tool.write("client.json", r#"{"Client":{"Net":{"Proxi":1}}}"#);
    let output = tool.run("-regio R --bandwith-limit 3");
    assert_eq!(output.status.code(), Some(2));
    let shown = text(&output.stderr);
    assert!(
        shown.contains("unknown flag `-regio`; did you mean `--region`?"),
        "{shown}"
    );
    assert!(shown.contains("did you mean `--bandwidth-limit`?"), "{shown}");
    // What cannot be understood is refused once, and the rest is looked at nevertheless.
    for (line, parts) in [
        ("-zzzzzz value -mode 9", vec!["unknown flag `-zzzzzz`", "-mode 9"]),
        (
            "--zzzzzz=value -mode=9",
            vec!["unknown flag `--zzzzzz`", "-mode 9"],
        ),
        (
            "snyc -zzzzzz value .",
            vec!["did you mean `sync`?", "unknown flag `-zzzzzz`"],
        ),
    ] {
        let output = tool.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}");
        let shown = text(&output.stderr);
        for part in parts {
            assert_eq!(shown.matches(part).count(), 1, "{part} in {shown}");
        }
        assert!(
            !shown.contains("value`") && !shown.contains("unexpected"),
            "{shown}"
        );
    }
    for line in ["-hlep", "nonsense", "-zzzzzz value"] {
        let mut command = Command::new(tool.folder.path().join("go2cloud_x64"));
        let output = command.args(line.split(' ')).output().unwrap();
        let shown = text(&output.stderr);
        let refusals = shown.lines().filter(|line| line.starts_with("go2cloud: "));
        assert_eq!((output.status.code(), refusals.count()), (Some(2), 1), "{shown}");
    }
    let output = tool.run("-mode 9 -incremental-time 1");
    assert_eq!(output.status.code(), Some(2));
    let shown = text(&output.stderr);
    for part in [
        "client.json:1:19: `Client.Net.Proxi` is unknown",
        "-mode 9",
        "-incremental-time 1",
        "`-endpoint` is missing",
        "`-region` is missing",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn without_a_terminal_a_missing_key_is_refused_not_asked_for() {
    let tool = Tool::new();
    let output = tool.run("-region R -endpoint e.example");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("GO2CLOUD_SECRET_KEY"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn help_and_version_fit() {
    let tool = Tool::new();
    let output = Command::new(tool.folder.path().join("go2cloud_x64"))
        .arg("-help")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for part in ["Control plane:", "Network:", "--instance-id", "Exit codes:"] {
        assert!(help.contains(part), "{part}");
    }
    assert!(!help.contains("--off"), "hidden");
    let output = Command::new(tool.folder.path().join("go2cloud_x64"))
        .arg("-version")
        .output()
        .unwrap();
    assert_eq!(
        text(&output.stdout).trim(),
        concat!("go2cloud ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn every_help_text_fits_a_narrow_terminal_and_completions_are_what_shells_read() {
    let program = env!("CARGO_BIN_EXE_go2cloud");
    let run = |args: &[&str]| {
        let output = Command::new(program)
            .args(args)
            .env("COLUMNS", "72")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        text(&output.stdout)
    };
    let mut commands = vec![vec![]];
    for command in agent::cli::definition().get_subcommands() {
        commands.push(vec![command.get_name().to_owned()]);
    }
    for command in commands {
        let mut args: Vec<&str> = command.iter().map(String::as_str).collect();
        args.push("--help");
        let help = run(&args);
        let longest = help.lines().map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= 72, "{args:?}: {longest} columns\n{help}");
    }
    let mut bash = Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let completions = run(&["completions", "bash"]);
    assert!(completions.contains("--incremental-time") && completions.contains("support-bundle"));
    std::io::Write::write_all(&mut bash.stdin.take().unwrap(), completions.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(
            run(&["completions", shell]).contains("incremental-time"),
            "{shell}"
        );
    }
}

#[test]
fn keys_do_not_stay_in_the_process_list() {
    let tool = Tool::new();
    let line = format!(
        "-region R -endpoint http://{} -ignore-check -secret-id AKIDhidden -secret-key=hunter2hidden",
        closed()
    );
    let mut child = tool
        .command(&line)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    let mut seen = String::new();
    while Instant::now() < end {
        seen = text(&fs::read(format!("/proc/{}/cmdline", child.id())).unwrap_or_default());
        if !seen.contains("hidden") && seen.contains("-region") {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let alive = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(alive, "it sits an outage out");
    assert!(
        !seen.contains("hidden") && seen.contains("-ignore-check"),
        "{seen:?}"
    );
    let log = fs::read_to_string(tool.folder.path().join("logs/log")).unwrap_or_default();
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn the_check_tells_by_its_exit_code_and_as_json() {
    let tool = Tool::new();
    let line = format!("--check --json --source-root {}", tool.folder.path().display());
    let output = tool.run(&line);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        report["exit"].as_i64().unwrap(),
        i64::from(output.status.code().unwrap())
    );
    let findings = report["findings"].as_array().unwrap();
    let root = findings.iter().find(|finding| finding["id"] == "P01").unwrap();
    let is_root = rustix::process::geteuid().is_root();
    assert_eq!(root["status"] == "pass", is_root);
    assert!(
        findings
            .iter()
            .all(|finding| finding["status"] != "fail" || finding["remedy"] != "")
    );
}

#[test]
fn a_daemon_runs_by_itself_says_so_and_ends_on_sigterm() {
    let tool = Tool::new();
    let line = format!(
        "-region R -endpoint http://{} -ignore-check -daemon -secret-id A -secret-key B",
        closed()
    );
    let output = tool.run(&line);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let pid = fs::read_to_string(tool.folder.path().join("state/go2cloud.pid")).unwrap();
    let process = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    let status = tool.run("status --json");
    assert_eq!(status.status.code(), Some(0), "{}", text(&status.stdout));
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["process"].to_string(), pid);
    let clean = tool.run("--clean");
    assert_eq!(clean.status.code(), Some(2), "--clean does not pull the rug away");
    let watching = tool
        .command("status --watch --json")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while tool.run("status --json").status.code() == Some(0) {
        assert!(Instant::now() < end, "still running");
        std::thread::sleep(Duration::from_millis(100));
    }
    let watched = watching.wait_with_output().unwrap();
    assert_eq!(
        watched.status.code(),
        Some(1),
        "whoever watches is told of the end"
    );
    let watched = text(&watched.stdout);
    assert!(
        watched.lines().last().unwrap().contains("\"running\":false"),
        "{watched}"
    );
    assert_eq!(tool.run("--clean").status.code(), Some(0));
}

#[test]
fn what_follows_a_misspelt_flag_is_checked_as_well() {
    let tool = Tool::new();
    let output =
        tool.run("-regoin R -endpont e.example -mode 9 -incremental-time 5 -secret-id A -secret-key B");
    assert_eq!(output.status.code(), Some(2));
    let shown = text(&output.stderr);
    for part in [
        "unknown flag `-regoin`; did you mean `--region`?",
        "unknown flag `-endpont`; did you mean `--endpoint`?",
        "-mode 9",
        "-incremental-time 5",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!shown.contains("is missing"), "{shown}");
}

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Lets a receiver serve a folder of the tool while `act` runs; gives it the flags that lead there.
fn with_receiver<T>(tool: &Tool, act: impl FnOnce(&str) -> T) -> T {
    let target = tool.folder.path().join("target");
    fs::create_dir_all(&target).unwrap();
    tool.write("key", SECRET);
    let receiver = Receiver::bind(ServePlan {
        listen: "127.0.0.1:0".parse().unwrap(),
        secret: Secret::parse(SECRET.as_bytes()).unwrap(),
        volume: TargetVolume::Tree { root: target },
        journal: tool.folder.path().join("journal"),
    })
    .unwrap();
    let flags = format!(
        "-remote-ip 127.0.0.1 --remote-port {} --secret-file {}",
        receiver.local_addr().port(),
        tool.folder.path().join("key").display()
    );
    let stop = StopFlag::default();
    std::thread::scope(|scope| {
        scope.spawn(|| receiver.run(&Silent, &stop).unwrap());
        let result = act(&flags);
        stop.stop();
        result
    })
}

/// A folder to migrate, outside of the tool's own.
fn source() -> tempfile::TempDir {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("file"), "content").unwrap();
    source
}

#[test]
fn a_check_measures_the_link_to_a_known_receiver() {
    let (tool, source) = (Tool::new(), source());
    let find = |output: &Output, id: &str| {
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report["findings"].as_array().unwrap().clone();
        findings.into_iter().find(|finding| finding["id"] == id).unwrap()
    };
    let (line, output) = with_receiver(&tool, |flags| {
        let line = format!("--check --json --source-root {} {flags}", source.path().display());
        let output = tool.run(&line);
        (line, output)
    });
    assert_eq!(find(&output, "P64")["status"], "pass");
    let amount = find(&output, "P42")["observed"].to_string();
    assert!(
        amount.contains("in 2 files"),
        "the directory and its file: {amount}"
    );
    let forecast = find(&output, "F01")["observed"].to_string();
    assert!(forecast.contains("measured to 127.0.0.1"), "{forecast}");
    let output = tool.run(&line);
    assert_eq!(output.status.code(), Some(3), "nobody listens any more");
    assert_eq!(find(&output, "P64")["status"], "fail");
    let forecast = find(&output, "F01")["observed"].to_string();
    assert!(
        forecast.contains("assumed") || forecast.contains("not measured"),
        "{forecast}"
    );
}

#[test]
fn a_migration_without_a_job_has_a_receipt_whatever_its_end() {
    let (tool, source) = (Tool::new(), source());
    let receipt = || {
        let logs = fs::read_dir(tool.folder.path().join("logs")).unwrap();
        let is_receipt = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "json");
        let mut found = logs.map(|entry| entry.unwrap().path()).filter(is_receipt);
        found.next().unwrap()
    };
    let verify = |path: &std::path::Path| {
        let mut command = Command::new(tool.folder.path().join("go2cloud_x64"));
        command.arg("verify").arg(path).output().unwrap()
    };
    with_receiver(&tool, |flags| {
        let line = format!(
            "-no-console -ignore-check --source-root {} {flags}",
            source.path().display()
        );
        let output = tool.run(&line);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let good = receipt();
        let verified = verify(&good);
        assert_eq!(verified.status.code(), Some(0), "{}", text(&verified.stderr));
        assert!(text(&verified.stdout).contains("Signed by the target"));
        fs::remove_file(good).unwrap();
        // Whoever does not know the secret gets no signature either.
        tool.write("key", "ffffffffffffffffffffffffffffffff");
        let output = tool.run(&line);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let verified = verify(&receipt());
        assert_eq!(verified.status.code(), Some(23), "{}", text(&verified.stderr));
        let said = text(&verified.stdout);
        assert!(
            said.contains("Result: failed") && said.contains("NOT signed by the target"),
            "{said}"
        );
    });
}

#[test]
fn a_migration_without_a_job_is_the_only_one_and_shows_its_status() {
    let (tool, source) = (Tool::new(), source());
    // Five seconds and more at the limit below.
    let mut bytes = vec![0; 1 << 20];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
    fs::write(source.path().join("large"), bytes).unwrap();
    let status = |flags: &str| tool.run(&format!("status {flags}"));
    with_receiver(&tool, |flags| {
        let line = format!(
            "-no-console -ignore-check -bandwidth-limit 200 --source-root {} {flags}",
            source.path().display()
        );
        let mut command = tool.command(&line);
        let running = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        let shown: serde_json::Value = loop {
            assert!(Instant::now() < end, "no status");
            std::thread::sleep(Duration::from_millis(50));
            let shown = serde_json::from_slice(&status("--json").stdout).unwrap_or_default();
            let shown: serde_json::Value = shown;
            if shown["percent"].as_f64() >= Some(2.0) {
                break shown;
            }
        };
        assert_eq!(shown["running"], true, "{shown}");
        assert_eq!(shown["process"], running.id(), "{shown}");
        let second = tool.run(&line);
        assert_eq!(second.status.code(), Some(2), "{}", text(&second.stderr));
        assert!(text(&second.stderr).contains("another agent works with this state folder"));
        assert_eq!(tool.run("--clean").status.code(), Some(2));
        let faster = tool.run("bandwidth 0");
        assert_eq!(faster.status.code(), Some(0), "{}", text(&faster.stderr));
        assert_eq!(running.wait_with_output().unwrap().status.code(), Some(0));
    });
    let after = status("");
    assert_eq!(after.status.code(), Some(1));
    assert!(
        text(&after.stdout).contains("No agent runs. The last one, at ")
            && text(&after.stdout).contains("Migrate successfully."),
        "{}",
        text(&after.stdout)
    );
    let copied = tool.folder.path().join("target/large");
    assert_eq!(
        fs::read(copied).unwrap(),
        fs::read(source.path().join("large")).unwrap()
    );
}

#[test]
fn the_service_file_is_one_that_systemd_takes() {
    let tool = Tool::new();
    let unit = include_str!("../../packaging/go2cloud.service");
    let program = tool.folder.path().join("go2cloud_x64");
    let unit = unit.replace("/opt/go2cloud/go2cloud_x64", &program.display().to_string());
    assert!(unit.contains(&program.display().to_string()));
    // What only other packages have is not looked for here.
    let unit = unit.replace("Documentation=man:go2cloud(1)\n", "");
    tool.write("go2cloud.service", &unit);
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .arg(tool.folder.path().join("go2cloud.service"))
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(
        output.status.success() && !said.contains("go2cloud.service:"),
        "{said}"
    );
}
