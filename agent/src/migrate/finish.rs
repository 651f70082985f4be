//! `go2cloud finish`: ends the incremental phase of the running job early, with one last round.

use std::path::PathBuf;

use crate::cli::FinishArgs;
use crate::exit::{self, Exit};
use crate::output::{complain, say};
use crate::state::{self, State};
use crate::status::Status;

/// Name of the file that asks for the end; it names the job.
const FILE: &str = "finish.json";

/// Asks the running agent for the last round.
pub fn run(args: &FinishArgs) -> Exit {
    let state = State::at(args.state.clone().unwrap_or_else(|| PathBuf::from(state::ROOT)));
    let Some(job) = Status::of_running(&state).and_then(|status| status.job) else {
        complain("go2cloud: no agent carries out a job here");
        return exit::FAILED;
    };
    match state.write(FILE, &job) {
        Ok(()) => {
            say(&format!("Job {job}: the next round is the last one."));
            exit::DONE
        }
        Err(error) => {
            complain(&format!(
                "go2cloud: cannot write {}: {error}",
                state.path(FILE).display()
            ));
            exit::FAILED
        }
    }
}

/// Whether the end of the incremental phase of `job` is asked for.
pub(super) fn is_asked(state: &State, job: &str) -> bool {
    state.read::<String>(FILE).is_some_and(|asked| asked == job)
}
