//! This test program once more, to run one "test" of it in a process that can be killed, stopped or held down.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A child that is talked to line by line. Its standard output stays open: a closed one would end it.
pub(crate) struct ChildProcess {
    pub(crate) process: Child,
    lines: BufReader<ChildStdout>,
}

impl ChildProcess {
    /// Runs `test`; `variables` tell it what to do.
    pub(crate) fn start(test: &str, variables: &[(&str, &OsStr)]) -> Self {
        Self::start_by(Command::new(std::env::current_exe().unwrap()), test, variables)
    }

    /// The same without some capabilities, named as `setpriv` names them (`-bpf,-sys_admin`), but with tracefs mounted: for
    /// that it would need one of them.
    pub(crate) fn start_without(capabilities: &str, test: &str, variables: &[(&str, &OsStr)]) -> Self {
        let script = format!(
            "mount -t tracefs tracefs /sys/kernel/tracing && \
             exec setpriv --bounding-set={capabilities} --inh-caps={capabilities} \"$0\" \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]);
        command.arg(std::env::current_exe().unwrap());
        Self::start_by(command, test, variables)
    }

    fn start_by(mut command: Command, test: &str, variables: &[(&str, &OsStr)]) -> Self {
        let mut process = command
            .args(["--exact", test, "--nocapture"])
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        Self { process, lines }
    }

    /// The rest of the next line that begins with `word`.
    pub(crate) fn line(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(
                self.lines.read_line(&mut line).unwrap() > 0,
                "it ended without {word}"
            );
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Lets a child go on that waits for a line.
    pub(crate) fn go_on(&mut self) {
        self.process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
