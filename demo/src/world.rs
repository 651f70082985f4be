//! The demo's surroundings: its folder, its processes, the user's Ctrl-C.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a program may take to end after it was asked.
const END_PATIENCE: Duration = Duration::from_secs(20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Prints a line for people.
#[expect(clippy::print_stderr, reason = "the demo talks to whoever runs it")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// Whether the user wants the demo to end.
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Acquire)
}

/// Notices Ctrl-C and SIGTERM from now on: a thread waits for them. Nothing is blocked, for children would inherit it.
pub(crate) fn watch_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("watch for signals")?;
    let (mut interrupt, mut terminate) = {
        use tokio::signal::unix::{SignalKind, signal};
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            INTERRUPTED.store(true, Ordering::Release);
        });
    });
    Ok(())
}

/// The folder of a demo: programs, cloud, state, result.
pub(crate) struct World {
    folder: PathBuf,
    _lock: std::fs::File,
}

impl World {
    /// Takes the folder; a run that ended well is cleared away, one that did not is taken up again.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
        let lock = std::fs::File::create(folder.join("lock")).context("make the lock file")?;
        if lock.try_lock().is_err() {
            bail!(
                "another demo runs in {}: wait for it, or use --work",
                folder.display()
            );
        }
        let world = Self {
            folder: folder.to_owned(),
            _lock: lock,
        };
        if world.path("finished").exists() {
            for name in ["cloud", "agent", "programs", "subject"] {
                let path = world.path(name);
                if path.symlink_metadata().is_ok() {
                    std::fs::remove_dir_all(&path)
                        .or_else(|_| std::fs::remove_file(&path))
                        .with_context(|| format!("clear away what the last demo left: {}", path.display()))?;
                }
            }
            std::fs::remove_file(world.path("finished")).context("clear away what the last demo left")?;
        }
        for name in ["cloud", "agent", "programs"] {
            std::fs::create_dir_all(world.path(name)).context("make the demo's folders")?;
        }
        world.link_programs()?;
        Ok(world)
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// This very file under the names of the three programs.
    fn link_programs(&self) -> Result<()> {
        let own = std::env::current_exe().context("find this program")?;
        for name in ["go2cloud", "go2cloud-receiver", "go2cloud-control"] {
            let link = self.path("programs").join(name);
            if link.symlink_metadata().is_ok() {
                std::fs::remove_file(&link).context("renew the programs")?;
            }
            std::os::unix::fs::symlink(&own, &link).context("name the programs")?;
        }
        Ok(())
    }

    /// A program of the suite.
    pub(crate) fn program(&self, name: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.path("programs").join(name));
        // Ctrl-C reaches the demo only, which then ends its programs in order.
        command.process_group(0);
        command
    }
}

/// A program that is ended when it is dropped.
pub(crate) struct Running {
    name: &'static str,
    child: Child,
}

impl Running {
    pub(crate) fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self { name, child })
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its end, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("wait for {}", self.name))
    }

    /// Asks it to end and waits; kills it when it does not.
    pub(crate) fn end(&mut self) -> Result<()> {
        let begin = Instant::now();
        if self.ended()?.is_none() {
            let id = nix::unistd::Pid::from_raw(self.child.id() as i32);
            nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).context("ask a program to end")?;
        }
        while self.ended()?.is_none() {
            if begin.elapsed() > END_PATIENCE {
                say(&format!("{} does not end: killed", self.name));
                self.child.kill().context("kill a program")?;
                self.child.wait().context("wait for a killed program")?;
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            say(&format!("demo: {error:#}"));
        }
    }
}
