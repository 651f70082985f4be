//! The system's own programs: the judges that know nothing of us.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a program, which must succeed, and returns what it says.
macro_rules! run {
    ($program:expr $(, $argument:expr)* $(,)?) => {
        $crate::programs::output_of(std::process::Command::new($program)$(.arg($argument))*)
    };
}
pub(crate) use run;

#[track_caller]
pub(crate) fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A bind mount, undone when dropped.
pub(crate) struct Bind(PathBuf);

impl Bind {
    pub(crate) fn new(from: &Path, to: &Path) -> Self {
        run!("mount", "--bind", from, to);
        Self(to.to_owned())
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}
