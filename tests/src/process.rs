//! A program that a test has started: signalled, waited for, and killed when the test is done with it.

use std::path::Path;
use std::process::{Child, ChildStdin, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for anything: the machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

/// The command of `program`, in a network namespace if one is named.
#[must_use]
pub fn command_in(namespace: Option<&str>, program: &Path) -> Command {
    let Some(namespace) = namespace else {
        return Command::new(program);
    };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// Processes that want all processors, for as long as the values live.
///
/// # Panics
/// When they cannot be started.
#[must_use]
pub fn processor_hogs() -> Vec<Process> {
    let count = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    let one = |_| Process::start(Command::new("sh").args(["-c", "while :; do :; done"]));
    (0..count).map(one).collect()
}

/// Looks again and again until there is something to see.
///
/// # Panics
/// When that takes too long; `explain` says what else is known.
pub fn wait_until<T>(
    what: &str,
    pause: Duration,
    mut look: impl FnMut() -> Option<T>,
    explain: impl Fn() -> String,
) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}\n{}", explain());
        std::thread::sleep(pause);
    }
}

impl Process {
    /// Starts a program.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let program = command.get_program().to_owned();
        let child = command.spawn();
        Self {
            child: child.unwrap_or_else(|error| panic!("{program:?} cannot be started: {error}")),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, if it was started with a pipe there.
    ///
    /// # Panics
    /// When it was not, or this was asked before.
    #[must_use]
    pub fn take_input(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("its input is a pipe")
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state can be asked").is_none()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Ends it as a power cut would.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn kill(mut self) {
        assert!(self.is_running(), "it has ended already");
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Asks it to end as a user does with Ctrl-C, and gives its exit code.
    ///
    /// # Panics
    /// When it has no exit code.
    #[must_use]
    pub fn interrupt(self) -> i32 {
        self.signal(Signal::INT);
        self.wait()
    }

    /// Waits for its end and gives its exit code.
    ///
    /// # Panics
    /// When it does not end in time, or has no exit code.
    #[must_use]
    pub fn wait(mut self) -> i32 {
        let look = || self.child.try_wait().expect("its state can be asked");
        let status = wait_until("a program to end", Duration::from_millis(50), look, String::new);
        status.code().expect("an exit code")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
