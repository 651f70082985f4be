//! A PostgreSQL server of its own for a test: on a Unix socket in a folder of its own, gone when dropped.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A running server.
pub(crate) struct Cluster {
    folder: TempDir,
    programs: PathBuf,
    port: u16,
}

fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("the package postgresql is installed")
        .map(|entry| {
            entry
                .expect("PostgreSQL's programs and a temporary folder are usable")
                .path()
                .join("bin")
        })
        .collect();
    found.sort();
    found.pop().expect("a version of PostgreSQL is installed")
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn succeed(output: Output) -> String {
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Cluster {
    /// Makes and starts one.
    pub(crate) fn start() -> Self {
        let cluster = Self::made();
        cluster.run_server("-c listen_addresses=");
        cluster
    }

    /// Makes and starts one that listens on the loopback, with a certificate.
    pub(crate) fn start_with_tls() -> Self {
        let mut cluster = Self::made();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])
            .expect("PostgreSQL's programs and a temporary folder are usable");
        let key = cluster.folder.path().join("server.key");
        for (path, text) in [
            (cluster.certificate(), made.cert.pem()),
            (key.clone(), made.signing_key.serialize_pem()),
        ] {
            std::fs::write(&path, text).expect("PostgreSQL's programs and a temporary folder are usable");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
                .expect("PostgreSQL's programs and a temporary folder are usable");
            cluster.give(&path);
        }
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        cluster.port = free
            .expect("PostgreSQL's programs and a temporary folder are usable")
            .port();
        cluster.run_server(&format!(
            "-c listen_addresses=127.0.0.1 -c ssl=on -c ssl_cert_file={} -c ssl_key_file={}",
            cluster.certificate().display(),
            key.display()
        ));
        cluster
    }

    /// The certificate of a server that has one.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("server.pem")
    }

    /// The URL of a database over TLS.
    pub(crate) fn encrypted_url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/{database}?sslmode=require",
            self.port
        )
    }

    /// Gives a file to the user that the server runs as.
    fn give(&self, path: &Path) {
        if is_root() {
            let output = Command::new("chown").arg("postgres:").arg(path).output();
            succeed(output.expect("PostgreSQL's programs and a temporary folder are usable"));
        }
    }

    fn made() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("control-postgres-")
            .tempdir()
            .expect("PostgreSQL's programs and a temporary folder are usable");
        let cluster = Self {
            folder,
            programs: programs(),
            port: 5432,
        };
        cluster.give(cluster.folder.path());
        let mut command = cluster.command("initdb");
        command
            .args(["--no-sync", "-A", "trust", "-U", "postgres", "-D"])
            .arg(cluster.data());
        succeed(
            command
                .output()
                .expect("PostgreSQL's programs and a temporary folder are usable"),
        );
        cluster
    }

    fn run_server(&self, options: &str) {
        let options = format!(
            "{options} -p {} -c unix_socket_directories={} -c fsync=off",
            self.port,
            self.folder.path().display()
        );
        let mut command = self.command("pg_ctl");
        command
            .arg("-D")
            .arg(self.data())
            .arg("-l")
            .arg(self.folder.path().join("log"));
        command.args(["-w", "-o", &options, "start"]);
        succeed(
            command
                .output()
                .expect("PostgreSQL's programs and a temporary folder are usable"),
        );
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A program of PostgreSQL, which refuses to run as root.
    fn command(&self, program: &str) -> Command {
        let path = self.programs.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.current_dir(self.folder.path());
        command
    }

    /// Makes a database and gives its URL.
    pub(crate) fn database(&self, name: &str) -> String {
        self.run("postgres", &format!("CREATE DATABASE {name}"));
        format!("postgres://postgres@{}/{name}", encoded(self.folder.path()))
    }

    /// Runs a statement.
    pub(crate) fn run(&self, database: &str, statement: &str) -> String {
        let mut command = self.command("psql");
        command
            .args(["-p", &self.port.to_string()])
            .arg("-h")
            .arg(self.folder.path())
            .args([
                "-U",
                "postgres",
                "-d",
                database,
                "-v",
                "ON_ERROR_STOP=1",
                "-c",
                statement,
            ]);
        succeed(
            command
                .output()
                .expect("PostgreSQL's programs and a temporary folder are usable"),
        )
    }

    /// Ends all connections to a database, as a restart of the server would.
    pub(crate) fn cut_connections(&self, database: &str) {
        self.run(
            "postgres",
            &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"),
        );
        // The client learns of it when its connection's task reads the end.
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// A socket's folder as the host of a URL.
fn encoded(folder: &Path) -> String {
    folder.display().to_string().replace('/', "%2F")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let stopped = self
            .command("pg_ctl")
            .arg("-D")
            .arg(self.data())
            .args(["-m", "immediate", "-w", "stop"])
            .output();
        // A server that goes on running would be a defect of this test; one that is gone already is not.
        let is_stopped = stopped.is_ok_and(|output| output.status.success());
        assert!(
            is_stopped || std::thread::panicking(),
            "the test's PostgreSQL server still runs"
        );
    }
}
