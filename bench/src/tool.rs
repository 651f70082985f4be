//! The tools that are compared, each with the settings that its users would choose for a server's data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::measure::{Sample, children_seconds, measure};
use crate::network::{Link, Network};
use crate::server::Server;
use crate::site::Site;

/// Where every server listens: each runs alone, in a namespace of its own.
const PORT: u16 = 7001;

/// Where the relay listens.
const RELAY_PORT: u16 = 7002;

/// A way to copy a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tool {
    /// The program under test.
    Go2cloud,
    /// `rsync -aHAX` over ssh, with the cipher that is fastest on processors with AES.
    RsyncSsh,
    /// The same with rsync's zstd compression, for slow links.
    RsyncSshCompressed,
    /// `rsync -aHAX` to an rsync daemon: no encryption.
    RsyncDaemon,
    /// The same with rsync's zstd compression, for slow links.
    RsyncDaemonCompressed,
    /// `tar | zstd -1 -T0 | nc`: no encryption, full copies only.
    Tar,
    /// `cp -a` on the machine itself: no link, no encryption, no hashes, one processor. What reading and making files costs
    /// there is in the time of every other tool, too.
    Local,
    /// The same on two processors: a process for every entry of the source's first level, two at a time.
    LocalPair,
}

/// One copy to make.
#[derive(Clone, Debug, Default)]
pub(crate) struct Job {
    /// Tree to copy.
    pub source: PathBuf,
    /// Folder to copy into.
    pub target: PathBuf,
    /// go2cloud's state and journal go below here; kept for incremental copies.
    pub state: PathBuf,
    /// There are holes to keep.
    pub sparse: bool,
    /// Big files change in place.
    pub in_place: bool,
    /// Bandwidth limit in KiB/s.
    pub limit: Option<u32>,
    /// Round-trip time in ms to add.
    pub round_trip_ms: Option<u64>,
    /// Rounds of go2cloud in one run.
    pub rounds: u32,
}

impl Tool {
    /// All tools.
    pub(crate) const ALL: [Self; 8] = [
        Self::Go2cloud,
        Self::RsyncSsh,
        Self::RsyncSshCompressed,
        Self::RsyncDaemon,
        Self::RsyncDaemonCompressed,
        Self::Tar,
        Self::Local,
        Self::LocalPair,
    ];

    /// For tables and the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Go2cloud => "go2cloud",
            Self::RsyncSsh => "rsync-ssh",
            Self::RsyncSshCompressed => "rsync-ssh-z",
            Self::RsyncDaemon => "rsync-daemon",
            Self::RsyncDaemonCompressed => "rsync-daemon-z",
            Self::Tar => "tar-zstd-nc",
            Self::Local => "cp",
            Self::LocalPair => "cp-pair",
        }
    }

    /// Whether anybody would use it on this link: compressing makes rsync slower on fast ones.
    pub(crate) fn suits(self, link: Link) -> bool {
        match self {
            Self::RsyncSshCompressed | Self::RsyncDaemonCompressed => link == Link::HundredMegabit,
            Self::Local | Self::LocalPair => link == Link::Unlimited,
            _ => true,
        }
    }

    /// Whether it can bring an existing copy up to date.
    pub(crate) fn is_incremental(self) -> bool {
        !matches!(self, Self::Tar | Self::Local | Self::LocalPair)
    }

    /// Makes one copy and measures it: the server is up before the clock starts, the clock stops when the data are
    /// complete at the target.
    pub(crate) fn copy(self, site: &Site, job: &Job) -> Result<Sample> {
        fs::create_dir_all(&job.target)?;
        fs::create_dir_all(&job.state)?;
        site.settle()?;
        let processor_before = children_seconds();
        let server = self.server(site, job)?;
        let mut server = server.map(|server| Server::start(server, PORT)).transpose()?;
        let relay = job.round_trip_ms.map(|ms| relay(site, ms)).transpose()?;
        let client = self.client(site, job)?;
        let start = Instant::now();
        let mut sample = measure(
            &site.network,
            client,
            server.as_ref().filter(|_| self == Self::Go2cloud).map(Server::id),
        )
        .with_context(|| format!("{} failed", self.name()))?;
        if self == Self::Tar
            && let Some(server) = &mut server
        {
            server.wait()?;
            sample.seconds = start.elapsed().as_secs_f64();
        }
        site.settle_target(job)?;
        sample.durable_seconds = start.elapsed().as_secs_f64();
        drop((server, relay));
        sample.processor_seconds = children_seconds() - processor_before;
        Ok(sample)
    }

    fn server(self, site: &Site, job: &Job) -> Result<Option<Command>> {
        let network = &site.network;
        match self {
            Self::Go2cloud => {
                let mut command = network.target.command(site.program("go2cloud-receiver"));
                command
                    .args(["--listen", &format!("{}:{PORT}", Network::TARGET)])
                    .arg("--secret-file")
                    .arg(site.path("secret"))
                    .arg("--into")
                    .arg(&job.target)
                    .arg("--journal")
                    .arg(job.state.join("journal"))
                    .stderr(fs::File::create(site.path("receiver.log"))?);
                Ok(Some(command))
            }
            Self::RsyncSsh | Self::RsyncSshCompressed => {
                let config = site.path("sshd.conf");
                let text = format!(
                    "Port {PORT}\nListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
                     PermitRootLogin prohibit-password\nPidFile none\n",
                    Network::TARGET,
                    site.path("host-key").display(),
                    site.path("client-key.pub").display()
                );
                fs::write(&config, text)?;
                let mut command = network.target.command("/usr/sbin/sshd");
                command.arg("-D").arg("-f").arg(config);
                Ok(Some(command))
            }
            Self::RsyncDaemon | Self::RsyncDaemonCompressed => {
                let config = site.path("rsyncd.conf");
                let text = format!(
                    "uid = root\ngid = root\nuse chroot = no\nnumeric ids = yes\nread only = no\n[target]\npath = {}\n",
                    job.target.display()
                );
                fs::write(&config, text)?;
                let mut command = network.target.command("rsync");
                command
                    .args(["--daemon", "--no-detach", "--port", &PORT.to_string()])
                    .args(["--address", &Network::TARGET.to_string()])
                    .arg("--config")
                    .arg(config);
                Ok(Some(command))
            }
            Self::Local | Self::LocalPair => Ok(None),
            Self::Tar => {
                let mut command = network.target.command("bash");
                let script = format!(
                    "set -o pipefail; exec nc -l {} {PORT} | zstd -d -q | tar --xattrs --acls --numeric-owner -xpf - -C {}",
                    Network::TARGET,
                    quoted(&job.target)?
                );
                command.args(["-c", &script]);
                Ok(Some(command))
            }
        }
    }

    fn client(self, site: &Site, job: &Job) -> Result<Command> {
        let command = |program: &Path| site.network.source.command(program);
        let (address, port) = match job.round_trip_ms {
            Some(_) => ("127.0.0.1".to_owned(), RELAY_PORT),
            None => (Network::TARGET.to_string(), PORT),
        };
        match self {
            Self::Go2cloud => {
                let mut command = command(&site.program("go2cloud"));
                command
                    .args(["sync", "--json", "--to", &format!("{address}:{port}")])
                    .arg("--secret-file")
                    .arg(site.path("secret"))
                    .arg("--state")
                    .arg(job.state.join("state"))
                    .args(["--rounds", &job.rounds.max(1).to_string()])
                    // The target works on the same machine: it is not to be taken for somebody to give way to.
                    .arg("--no-back-off")
                    .args(&site.flags);
                if let Some(limit) = job.limit {
                    command.args(["--bandwidth-limit", &limit.to_string()]);
                }
                command.arg(&job.source);
                Ok(command)
            }
            Self::Tar => {
                let mut command = command("bash".as_ref());
                let script = format!(
                    "set -o pipefail; tar --xattrs --acls --sparse --numeric-owner -cf - -C {} . | zstd -q -1 -T0 | \
                     nc -N {address} {port}",
                    quoted(&job.source)?
                );
                command.args(["-c", &script]);
                Ok(command)
            }
            Self::Local => {
                let mut command = command("cp".as_ref());
                command.args(["-a", "-T"]).args([&job.source, &job.target]);
                Ok(command)
            }
            Self::LocalPair => {
                let mut command = command("bash".as_ref());
                let script = format!(
                    "set -o pipefail; find {} -mindepth 1 -maxdepth 1 -print0 | xargs -0 -P 2 -n 1 cp -a -t {}",
                    quoted(&job.source)?,
                    quoted(&job.target)?
                );
                command.args(["-c", &script]);
                Ok(command)
            }
            _ => self.rsync(site, job, &address, port),
        }
    }

    fn rsync(self, site: &Site, job: &Job, address: &str, port: u16) -> Result<Command> {
        let mut command = site.network.source.command("rsync");
        command.args(["-aHAX", "--numeric-ids", "--delete"]);
        if job.sparse {
            command.arg("--sparse");
        }
        if job.in_place {
            command.arg("--inplace");
        }
        if let Some(limit) = job.limit {
            command.arg(format!("--bwlimit={limit}"));
        }
        if matches!(self, Self::RsyncSshCompressed | Self::RsyncDaemonCompressed) {
            command.args(["-z", "--compress-choice=zstd", "--compress-level=1"]);
        }
        command.arg(format!("{}/", job.source.display()));
        if matches!(self, Self::RsyncDaemon | Self::RsyncDaemonCompressed) {
            command.arg(format!("rsync://{address}:{port}/target/"));
        } else {
            let ssh = format!(
                "ssh -F /dev/null -i {} -p {port} -c aes128-gcm@openssh.com -o Compression=no \
                 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
                site.path("client-key").display()
            );
            command
                .args(["-e", &ssh])
                .arg(format!("root@{address}:{}/", job.target.display()));
        }
        Ok(command)
    }
}

fn relay(site: &Site, round_trip_ms: u64) -> Result<Server> {
    let mut command = site.network.source.command(std::env::current_exe()?);
    command
        .args(["relay", "--listen", &format!("127.0.0.1:{RELAY_PORT}")])
        .args(["--to", &format!("{}:{PORT}", Network::TARGET)])
        .args(["--round-trip-ms", &round_trip_ms.to_string()]);
    Server::start(command, RELAY_PORT)
}

/// For a shell.
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().context("the work folder's path is not UTF-8")?;
    ensure!(!text.contains('\''), "the work folder's path holds a quote");
    Ok(format!("'{text}'"))
}
