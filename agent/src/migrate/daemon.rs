//! `-daemon`: the same program again, in a session of its own, with the log as its only voice.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::plan::{Control, Credentials, ENV_SECRET_ID, ENV_SECRET_KEY, Plan, Task};
use crate::exit::{self, Exit};
use crate::output::{complain, say};
use crate::status::Status;

/// Set for the process in the background.
const ENV_BACKGROUND: &str = "GO2CLOUD_BACKGROUND";
/// File with the process id, in the state folder.
const PID_FILE: &str = "go2cloud.pid";
/// How long the foreground waits for the background to begin its work, or to fail.
const WAIT: Duration = Duration::from_secs(10);

/// Starts the background process and gives the exit code of the foreground; `None` in the background itself.
pub(super) fn go_background(plan: &Plan) -> Option<Exit> {
    if std::env::var_os(ENV_BACKGROUND).is_some() {
        begin(plan);
        return None;
    }
    // A service manager keeps processes in the background itself and wants to see the one that it started.
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        return None;
    }
    let mut command = Command::new("/proc/self/exe");
    command
        .args(std::env::args_os().skip(1))
        .env(ENV_BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // What was typed at the prompt must not be asked for again.
    if let Task::Jobs(Control { credentials, .. }, _) | Task::NoJob(Control { credentials, .. }, _) =
        &plan.task
        && let Credentials::Key { id, key } = credentials
    {
        command
            .env(ENV_SECRET_ID, id.reveal())
            .env(ENV_SECRET_KEY, key.reveal());
    }
    Some(match start(plan, command) {
        Ok(process) => {
            say(&format!(
                "Running in the background as process {process}. Log: {}",
                plan.logs().join(&plan.run.log_file).display()
            ));
            exit::DONE
        }
        Err(why) => {
            complain(&format!("go2cloud: the background process does not run: {why}"));
            exit::FAILED
        }
    })
}

fn start(plan: &Plan, mut command: Command) -> Result<u32, String> {
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let end = Instant::now() + WAIT;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            if status.success() {
                break; // there was little to do
            }
            let log = plan.logs().join(&plan.run.log_file);
            return Err(format!("it ended with {status}; {} says why", log.display()));
        }
        if Status::is_of(&plan.state(), child.id()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(child.id())
}

/// Leaves the terminal's session, and the process id where others look for it.
fn begin(plan: &Plan) {
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!("no session of its own: {error}");
    }
    if let Err(error) = plan.state().write(PID_FILE, &std::process::id()) {
        tracing::warn!("cannot write {}: {error}", plan.state().path(PID_FILE).display());
    }
}
