//! A run as others see it: the one agent of its state folder and, where no job has a supervisor that tells, a status while
//! it lasts.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use transfer::progress::StopFlag;

use super::plan::Plan;
use super::report::Reporter;
use crate::output::{self, complain};
use crate::state::{Lock, State};
use crate::status::Status;

/// Pause between two looks at what is told.
const PAUSE: Duration = Duration::from_secs(1);

/// Becomes the one agent of the plan's state folder; `None`, with a complaint, when another one runs.
///
/// # Errors
/// The folder cannot be written.
pub(super) fn alone(plan: &Plan) -> io::Result<Option<Lock>> {
    let lock = plan.state().lock()?;
    if lock.is_none() {
        complain(
            "go2cloud: another agent works with this state folder; end it, or name another folder by --state",
        );
    }
    Ok(lock)
}

/// A run without a job, until it is dropped.
pub(super) struct Presence {
    /// Takes what is told.
    pub(super) reporter: Arc<Reporter>,
    end: Arc<StopFlag>,
    thread: Option<JoinHandle<()>>,
    _lock: Lock,
}

impl Presence {
    /// Begins a run; `None`, with a complaint, when another agent works with the folder.
    ///
    /// # Errors
    /// The folder cannot be written, or the kernel refuses a thread.
    pub(super) fn begin(plan: &Plan) -> io::Result<Option<Self>> {
        let Some(lock) = alone(plan)? else {
            return Ok(None);
        };
        let reporter = Arc::new(Reporter::new(output::observer(plan.run.style)));
        reporter.say("checking");
        let end = Arc::new(StopFlag::default());
        write(&reporter, &plan.state());
        let thread = {
            let (reporter, end, state) = (Arc::clone(&reporter), Arc::clone(&end), plan.state());
            std::thread::Builder::new().name("status".into()).spawn(move || {
                while !end.sleep(PAUSE) {
                    write(&reporter, &state);
                }
                // How it ended, for those who look later.
                write(&reporter, &state);
            })?
        };
        Ok(Some(Self {
            reporter,
            end,
            thread: Some(thread),
            _lock: lock,
        }))
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.end.stop();
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing left to tell.
            let _ = thread.join();
        }
    }
}

fn write(reporter: &Reporter, state: &State) {
    let report = reporter.now();
    let status = Status {
        percent: report.percent,
        message: report.message,
        speed_kbs: report.speed_kbs,
        minutes_left: report.minutes_left,
        ..Status::default()
    };
    status.write(state);
}
