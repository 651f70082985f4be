//! The documented steps, word for word as a user of the tool types them: a whole (small) system with a shell on a
//! terminal, the tool unpacked in a folder, its configuration files beside it.
//!
//! The system is a root of its own in a mount namespace: the tool migrates `/`, keeps its state in /var/lib/go2cloud, and
//! needs no flag that a user would not give.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::Duration;

use go2cloud_tests::cloud::{Cloud, member};
use go2cloud_tests::compare::{Options, compare};
use go2cloud_tests::control::program;
use go2cloud_tests::dice::Dice;
use go2cloud_tests::process::{Process, wait_until};
use serde_json::Value;

/// Enters the system and leaves the user alone with a shell.
const ENTER: &str = r#"set -e
mount --bind "$1" "$1"
cd "$1"
mount -t proc none proc
mount -t sysfs none sys
mount --rbind /dev dev
exec env -i PATH=/bin TERM=dumb PS1='# ' "$(command -v chroot)" . /bin/sh -i"#;

/// A small system: a shell, some configuration, some data, and the tool as it is unpacked.
struct System {
    folder: tempfile::TempDir,
}

impl System {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("go2cloud-system-")
            .tempdir_in("/var/tmp")
            .expect("a folder");
        let system = Self { folder };
        for name in [
            "bin",
            "dev",
            "etc",
            "proc",
            "root/go2cloud",
            "srv/data",
            "sys",
            "tmp",
            "var/lib",
        ] {
            fs::create_dir_all(system.path(name)).expect("a folder");
        }
        for name in ["sh", "chmod"] {
            system.install(name);
        }
        let os =
            "NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n";
        for (name, text) in [
            ("os-release", os),
            ("hostname", "small\n"),
            ("fstab", ""),
            ("passwd", "root:x:0:0::/root:/bin/sh\n"),
        ] {
            fs::write(system.path("etc").join(name), text).expect("a file");
        }
        let mut bytes = vec![0; 1 << 20];
        Dice::new(70).fill(&mut bytes);
        fs::write(system.path("srv/data/large"), bytes).expect("a file");
        system.unpack();
        system
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A program of this machine with the libraries that it names.
    fn install(&self, name: &str) {
        let real = Path::new("/bin").join(name);
        let said = Command::new("ldd").arg(&real).output().expect("ldd runs").stdout;
        let said = String::from_utf8(said).expect("UTF-8");
        let libraries = said.split_whitespace().filter(|word| word.starts_with('/'));
        for file in libraries.chain([real.to_str().expect("a path in UTF-8")]) {
            let copy = self.path(file.trim_start_matches('/'));
            fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
            fs::copy(file, copy).expect("a copy");
        }
    }

    /// The archive: program and configuration files, the program not yet executable.
    fn unpack(&self) {
        let tool = self.path("root/go2cloud");
        fs::copy(program("go2cloud"), tool.join("go2cloud_x64")).expect("the program");
        fs::set_permissions(tool.join("go2cloud_x64"), fs::Permissions::from_mode(0o644)).expect("its mode");
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for name in ["user.json", "client.json", "rsync_excludes_linux.txt"] {
            fs::copy(shipped.join(name), tool.join(name)).expect("a configuration file");
        }
    }

    /// Compares with what arrived; the tool's own folder, its state, and what the kernel shows are left out.
    fn assert_arrived(&self, target: &Path) {
        let skip = ["root/go2cloud", "var/lib/go2cloud", "dev", "proc", "sys"];
        let options = Options {
            projects: false,
            skip: skip.iter().map(|path| path.as_bytes().to_vec()).collect(),
            ..Options::default()
        };
        compare(self.folder.path(), target, options).assert_equal();
        for path in ["root/go2cloud", "var/lib/go2cloud", "proc/self"] {
            assert!(!target.join(path).exists(), "{path} was migrated");
        }
    }
}

/// A terminal with a root shell in the system.
struct Terminal {
    _process: Process,
    keyboard: ChildStdin,
    screen: PathBuf,
    seen: usize,
}

impl Terminal {
    fn open(system: &System, screen: PathBuf) -> Self {
        let enter = screen.with_extension("sh");
        fs::write(&enter, ENTER).expect("a script");
        let steps = format!(
            "unshare -m sh {} {}",
            enter.display(),
            system.folder.path().display()
        );
        // `script` gives the shell a terminal; what is typed there comes from our end of the pipe.
        let mut command = Command::new("script");
        command
            .args(["-q", "-e", "-c", &steps, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(fs::File::create(&screen).expect("a file"));
        let mut process = Process::start(&mut command);
        let keyboard = process.take_input();
        let mut terminal = Self {
            _process: process,
            keyboard,
            screen,
            seen: 0,
        };
        terminal.wait_for("# ");
        terminal
    }

    fn press(&mut self, keys: &str) {
        self.keyboard
            .write_all(keys.as_bytes())
            .expect("the terminal is open");
    }

    /// Types a line.
    fn types(&mut self, line: &str) {
        self.press(&format!("{line}\n"));
    }

    /// Waits until the screen shows `text` after what was waited for before; gives what came until then.
    fn wait_for(&mut self, text: &str) -> String {
        let (screen, seen) = (&self.screen, self.seen);
        let read = || String::from_utf8_lossy(&fs::read(screen).expect("the screen")).into_owned();
        let look = || {
            let shown = read();
            let end = shown.get(seen..)?.find(text)? + seen + text.len();
            Some((shown[seen..end].to_owned(), end))
        };
        let (shown, end) = wait_until(text, Duration::from_millis(50), look, read);
        self.seen = end;
        shown
    }

    /// Types a command, and waits for its end; gives what it printed, and its exit code.
    fn runs(&mut self, line: &str) -> (String, i32) {
        self.types(&format!("{line}; echo \"exit code\" $?"));
        // Once as it is typed, once as it is printed.
        self.wait_for("echo \"exit code\" $?");
        let shown = self.wait_for("exit code ");
        let code = self.wait_for("\n");
        (shown, code.trim().parse().expect("a number"))
    }
}

/// Check first: what is wrong with this system for a start elsewhere is named, with what to do about it.
fn checks(terminal: &mut Terminal, endpoint: &str) {
    let (shown, code) = terminal.runs("./go2cloud_x64 --check");
    assert_eq!(code, 3, "{shown}");
    for part in [
        "FAIL",
        "P21",
        "boot loader",
        "grub-install",
        "pass",
        "P01",
        "checks: ",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let mistaken = format!("-region local-1 -endpoint {endpoint} -instance-id web-1 -mode 7");
    let (shown, code) = terminal.runs(&format!("./go2cloud_x64 {mistaken}"));
    assert_eq!(code, 2, "{shown}");
    assert!(shown.contains("web-1") && shown.contains("-mode 7"), "{shown}");
}

/// From the console: a job for the source, which runs to its end while the tool waits. Gives the instance.
fn job_from_the_console(cloud: &Cloud, terminal: &mut Terminal) -> String {
    terminal.wait_for("Import source server successfully");
    let sources = cloud.admin("source list --json");
    assert_eq!(sources.matches("\"SourceServerId\"").count(), 1, "{sources}");
    let source = member(&sources, "SourceServerId");
    let instance = cloud.create_instance("--system-disk 32000");
    let job = cloud.start_job(&source, &format!("--instance {instance}"));
    terminal.wait_for("Migrate successfully.");
    assert_eq!(member(&cloud.wait_for(&job, "SUCCESS"), "Result"), "succ");
    terminal.press("\u{3}");
    terminal.wait_for("Stopped. Start this program again to go on");
    terminal.wait_for("# ");
    assert_eq!(member(&cloud.admin("source list --json"), "Status"), "OFFLINE");
    instance
}

/// Fills in `user.json`, and says in `client.json` that the checks are known to fail.
fn fill_in(system: &System, key: &(String, String), endpoint: &str) {
    let user = format!(
        r#"{{"SecretId": "{}", "SecretKey": "{}", "Region": "local-1", "InstanceId": "", "EndPoint": "{endpoint}"}}"#,
        key.0, key.1
    );
    fs::write(system.path("root/go2cloud/user.json"), user).expect("user.json");
    let path = system.path("root/go2cloud/client.json");
    let client = fs::read_to_string(&path).expect("client.json");
    let client = client.replace("\"IgnoreCheck\": false", "\"IgnoreCheck\": true");
    fs::write(path, client).expect("client.json");
}

#[test]
fn the_documented_steps_work_word_for_word() {
    let cloud = Cloud::new();
    let system = System::new();
    let endpoint = format!("http://{}", cloud.control.address);
    let mut terminal = Terminal::open(&system, cloud.path("screen"));
    terminal.types("cd /root/go2cloud");
    terminal.types("chmod +x go2cloud_x64");
    checks(&mut terminal, &endpoint);

    // This system has no boot loader, and its user knows. The tool asks for the key and does not show it.
    let line = format!("./go2cloud_x64 -region local-1 -endpoint {endpoint} -ignore-check");
    terminal.types(&line);
    terminal.wait_for("Please input the SecretId");
    terminal.types(&cloud.key.0);
    terminal.wait_for("Please input the SecretKey");
    terminal.types(&cloud.key.1);
    let instance = job_from_the_console(&cloud, &mut terminal);
    system.assert_arrived(&cloud.instance_folder(&instance));
    let log = fs::read_to_string(system.path("root/go2cloud/logs/log")).expect("a log");
    assert!(log.contains("Import source server successfully"), "{log}");
    let shown = fs::read_to_string(cloud.path("screen")).expect("the screen");
    for text in [shown, log] {
        assert!(!text.contains(&cloud.key.1), "the key is shown: {text}");
    }

    // The next time with the files filled in, and no flags at all: the machine is known again.
    fill_in(&system, &cloud.key, &endpoint);
    fs::write(system.path("srv/data/new"), "since then").expect("a file");
    terminal.types("./go2cloud_x64");
    let instance = job_from_the_console(&cloud, &mut terminal);
    system.assert_arrived(&cloud.instance_folder(&instance));

    // Cleaned up, the files are as they were unpacked.
    let (shown, code) = terminal.runs("./go2cloud_x64 --clean");
    assert_eq!(code, 0, "{shown}");
    let user = fs::read_to_string(system.path("root/go2cloud/user.json")).expect("user.json");
    assert!(!user.contains(&cloud.key.1), "{user}");
    terminal.types("exit");
}

#[test]
fn every_flag_may_be_spelt_in_four_ways() {
    let cloud = Cloud::new();
    cloud.fill_source(71, 0);
    let (id, key) = &cloud.key;
    for (dash, between) in [("-", " "), ("-", "="), ("--", " "), ("--", "=")] {
        let flags = [
            ("region", "local-1".to_owned()),
            ("endpoint", format!("http://{}", cloud.control.address)),
            ("secret-id", id.clone()),
            ("secret-key", key.clone()),
            ("log-file", "other".to_owned()),
            ("log-level", "3".to_owned()),
            ("source-root", cloud.path("source").display().to_string()),
        ]
        .map(|(name, value)| format!("{dash}{name}{between}{value}"))
        .join(" ");
        let mut command = cloud.tool(&format!("{dash}check {dash}json {flags}"));
        command
            .env_remove("GO2CLOUD_SECRET_ID")
            .env_remove("GO2CLOUD_SECRET_KEY");
        let output = command.output().expect("the agent runs");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let findings = report["findings"].as_array().expect("a list");
        let api = findings
            .iter()
            .find(|finding| finding["id"] == "C02")
            .expect("a check of the API");
        assert_eq!(api["status"], "pass", "{flags}: {api}");
        assert_eq!(api["observed"], "answers, and takes the key", "{flags}");
        assert!(cloud.path("tool/logs/other").exists(), "{flags}");
        fs::remove_file(cloud.path("tool/logs/other")).expect("the log that was asked for");
    }
    assert!(
        !cloud.admin("source list --json").contains("SourceServerId"),
        "a check registers nothing"
    );
}
