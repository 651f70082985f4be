//! The cutover of every volume: rounds until the last one is short enough, then freeze, last round, thaw.
//!
//! While anything is frozen this process writes nothing to a disk: no baseline, no log line, no progress. The thaw comes as
//! soon as the last byte was read and queued; that it is durable is waited for afterwards. What a round is, and what is
//! held back meanwhile, is the engine's affair ([`Engine`]).

use std::process::Command;
use std::time::{Duration, Instant};

use sys::freeze::{FreezePoint, Frozen, Thawed};

use crate::error::{Error, Kind, Result};
use crate::source::freeze_points::ToFreeze;

/// Part of the frozen time that does not depend on the amount of data: freezing itself takes 30 to 150 ms.
pub(crate) const FIXED: Duration = Duration::from_millis(100);
/// Rounds whose forecast may fail to get 10 % better before it counts as not improving.
const STALLS_MAX: u32 = 3;
/// Freezes that may miss the deadline.
const ATTEMPTS_MAX: u32 = 3;

/// How the cutover freezes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// Longest time for which the file systems may be frozen.
    pub max: Duration,
    /// Command for `sh -c` before the freeze, for instance to stop services.
    pub before: Option<String>,
    /// Command for `sh -c` after the thaw, however the freeze ended.
    pub after: Option<String>,
}

impl Freeze {
    /// The same for a state that nobody hands over: no services are stopped for it.
    pub(crate) fn without_commands(&self) -> Self {
        Self {
            max: self.max,
            before: None,
            after: None,
        }
    }
}

/// The last round, if it began now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forecast {
    /// How long it would take, frozen.
    pub(crate) takes: Duration,
    /// For people: what makes it so long.
    pub(crate) reason: String,
}

/// What makes rounds.
pub(crate) trait Engine {
    /// Makes a round while everything goes on.
    fn next_round(&mut self) -> Result<()>;
    /// What the last round would be.
    fn forecast(&mut self, freeze: &Freeze) -> Forecast;
    /// What to freeze.
    fn to_freeze(&mut self) -> Result<ToFreeze>;
    /// From here on nothing is written to a disk, until [`Engine::release`].
    fn hold(&mut self) -> Result<()>;
    /// Reads and sends what is left; all writers are frozen.
    fn copy(&mut self) -> Result<()>;
    /// Writes what was held back.
    fn release(&mut self) -> Result<()>;
    /// Has the target make the frozen round durable. Returns whether everything in it was read while frozen.
    fn end_round(&mut self) -> Result<bool>;
    /// Tells people.
    fn warn(&self, message: String);
}

/// How a frozen round went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HandedOver {
    /// For how long the file systems were frozen; `None` where all that is in use could not be.
    pub(crate) frozen_for: Option<Duration>,
    /// What was in use and not frozen, for people.
    pub(crate) not_frozen: Vec<String>,
}

impl HandedOver {
    fn new(thawed: Thawed, out_of_reach: Vec<String>) -> Self {
        let unsupported = thawed.unsupported.iter();
        let mut not_frozen: Vec<String> = unsupported
            .map(|point| format!("{} has a file system that knows no freeze", point.display()))
            .collect();
        not_frozen.extend(out_of_reach);
        // What nobody has in use stands still by itself.
        let stood_still = thawed.frozen > 0 || not_frozen.is_empty();
        Self {
            frozen_for: stood_still.then_some(thawed.frozen_for),
            not_frozen,
        }
    }

    /// In milliseconds, as summary and receipt say it.
    pub(crate) fn frozen_ms(&self) -> Option<u64> {
        self.frozen_for.map(|time| time.as_millis() as u64)
    }
}

/// Rounds until the forecast is short enough, then the frozen round.
pub(crate) fn cut_over(engine: &mut dyn Engine, freeze: &Freeze) -> Result<HandedOver> {
    let (mut best, mut stalls, mut missed) = (Duration::MAX, 0, 0);
    loop {
        let forecast = engine.forecast(freeze);
        if forecast.takes <= freeze.max {
            if let Some(handed_over) = frozen_round(engine, freeze)? {
                for what in &handed_over.not_frozen {
                    engine.warn(format!(
                        "not frozen: {what}. What was written there in the last round may be copied in part: stop what writes \
                         there with --pre-freeze"
                    ));
                }
                return Ok(handed_over);
            }
            missed += 1;
        } else if forecast.takes.as_secs_f64() > best.as_secs_f64() * 0.9 {
            stalls += 1;
        }
        best = best.min(forecast.takes);
        if stalls >= STALLS_MAX || missed >= ATTEMPTS_MAX {
            return Err(too_busy(freeze, &forecast));
        }
        engine.next_round()?;
    }
}

/// Returns how it went, if the round was made in one freeze.
fn frozen_round(engine: &mut dyn Engine, freeze: &Freeze) -> Result<Option<HandedOver>> {
    let after = AfterFreeze(freeze.after.as_deref());
    run_command("--pre-freeze", freeze.before.as_deref())?;
    synchronised(engine)?;
    // What the command and the synchronisation wrote is sent before the freeze.
    engine.next_round()?;
    let ToFreeze { points, out_of_reach } = synchronised(engine)?;
    let forecast = engine.forecast(freeze).takes;
    if forecast > freeze.max {
        engine.warn(format!(
            "no freeze yet: too much was written meanwhile, the last round would take {:.1} s",
            forecast.as_secs_f64()
        ));
        return Ok(None);
    }
    warn_of_exposure(engine)?;
    engine.hold()?;
    let result = freeze_and_copy(engine, points, freeze.max);
    let released = engine.release();
    drop(after);
    let thawed = result?;
    released?;
    let is_whole = engine.end_round()?;
    if !thawed.thawed_early.is_empty() {
        engine.warn(format!(
            "the freeze took longer than {} s and was ended: trying again",
            freeze.max.as_secs()
        ));
        return Ok(None);
    }
    // What was sent again was read after the thaw.
    Ok(is_whole.then(|| HandedOver::new(thawed, out_of_reach)))
}

/// Beforehand, for nothing is said while all is frozen.
fn warn_of_exposure(engine: &dyn Engine) -> Result<()> {
    let exposure = sys::watchdog::exposure()
        .map_err(|error| Error::new(Kind::Medium, "prepare the freeze").because(error))?;
    if let Some(exposure) = exposure {
        engine.warn(format!(
            "the process that ends the freeze if this one dies could be killed together with it: {exposure}. Should that \
             happen while file systems are frozen, fsfreeze --unfreeze ends it"
        ));
    }
    Ok(())
}

/// Everything between freeze and thaw. Nothing in here may write to a disk.
fn freeze_and_copy(engine: &mut dyn Engine, points: Vec<FreezePoint>, deadline: Duration) -> Result<Thawed> {
    let failed = |error| {
        Error::new(Kind::Medium, "freeze the file systems")
            .because(error)
            .remedy("another program may hold a freeze: fsfreeze --unfreeze ends it")
    };
    let frozen = Frozen::freeze(points, deadline).map_err(failed)?;
    engine.copy()?;
    frozen.thaw().map_err(|error| {
        Error::new(Kind::Medium, "thaw the file systems")
            .because(error)
            .remedy("fsfreeze --unfreeze each of them")
    })
}

fn too_busy(freeze: &Freeze, forecast: &Forecast) -> Error {
    Error::new(Kind::Usage, format!("freeze for at most {} s", freeze.max.as_secs_f64())).remedy(format!(
        "the last round would take {:.1} s and does not get shorter: {}. Raise --freeze-max, quieten the source with \
         --pre-freeze, or raise the bandwidth. What is durable at the target is kept",
        forecast.takes.as_secs_f64(),
        forecast.reason,
    ))
}

/// The file systems to freeze, written back. Looked for anew each time: the command may unmount some.
fn synchronised(engine: &mut dyn Engine) -> Result<ToFreeze> {
    let to_freeze = engine.to_freeze()?;
    for point in &to_freeze.points {
        point
            .synchronise()
            .map_err(|error| Error::new(Kind::Medium, "synchronise the file system").because(error))?;
    }
    Ok(to_freeze)
}

/// Runs the command after the freeze, whatever happens in between.
pub(crate) struct AfterFreeze<'a>(pub(crate) Option<&'a str>);

impl Drop for AfterFreeze<'_> {
    fn drop(&mut self) {
        if let Err(error) = run_command("--post-freeze", self.0) {
            tracing::error!(%error, "the command after the freeze failed");
        }
    }
}

/// Runs one of the administrator's commands.
pub(crate) fn run_command(flag: &str, command: Option<&str>) -> Result<()> {
    let Some(command) = command else { return Ok(()) };
    let began = Instant::now();
    let failed = || Error::new(Kind::Usage, format!("run the {flag} command `{command}`"));
    // Its output belongs to the terminal, not into the events on standard output.
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdin(std::process::Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .map_err(|error| failed().because(error))?;
    if status.success() {
        return Ok(());
    }
    Err(failed().because(format!(
        "it ended with {status} after {:.1} s",
        began.elapsed().as_secs_f64()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::path::Path;

    /// Makes rounds of nothing over what cannot be frozen.
    #[derive(Default)]
    struct Idle {
        out_of_reach: Vec<String>,
        warnings: RefCell<Vec<String>>,
    }

    impl Engine for Idle {
        fn next_round(&mut self) -> Result<()> {
            Ok(())
        }

        fn forecast(&mut self, _: &Freeze) -> Forecast {
            Forecast::default()
        }

        fn to_freeze(&mut self) -> Result<ToFreeze> {
            Ok(ToFreeze {
                points: vec![FreezePoint::open(Path::new("/proc")).unwrap()],
                out_of_reach: self.out_of_reach.clone(),
            })
        }

        fn hold(&mut self) -> Result<()> {
            Ok(())
        }

        fn copy(&mut self) -> Result<()> {
            Ok(())
        }

        fn release(&mut self) -> Result<()> {
            Ok(())
        }

        fn end_round(&mut self) -> Result<bool> {
            Ok(true)
        }

        fn warn(&self, message: String) {
            self.warnings.borrow_mut().push(message);
        }
    }

    #[test]
    fn what_knows_no_freeze_or_is_out_of_reach_is_named_and_no_time_is_claimed() {
        let freeze = Freeze {
            max: Duration::from_secs(20),
            before: None,
            after: None,
        };
        let mut engine = Idle {
            out_of_reach: vec!["/dev/somewhere is in use".to_owned()],
            ..Idle::default()
        };
        let handed_over = cut_over(&mut engine, &freeze).unwrap();
        assert_eq!(handed_over.frozen_for, None);
        let warnings = engine.warnings.borrow();
        for (at, what) in ["/proc has a file system", "/dev/somewhere is in use"]
            .iter()
            .enumerate()
        {
            assert!(handed_over.not_frozen[at].starts_with(what), "{handed_over:?}");
            assert!(
                warnings.iter().any(|warning| warning.contains(what)),
                "{warnings:?}"
            );
        }
    }
}
