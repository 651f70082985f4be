//! Giving way: the source is in production, and whoever else uses it comes first.
//!
//! Threads that read run in the background (idle I/O class, lower priority), so that what they compete for goes to others.
//! Where others have to wait all the same, reading pauses. Pressure as the kernel tells it (PSI) does not say who causes it,
//! and copying as fast as possible always causes some. So when it is high, reading stops for a moment: pressure that goes on
//! without us is not ours, and until it falls reading goes on with pauses; pressure that ends was our own, and is left alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use sys::pressure::Stalls;

use crate::progress::BackedOff;

/// How often pressure is looked at.
const POLL: Duration = Duration::from_secs(1);
/// What is under way when reading pauses has this long to end before pressure is measured.
const DRAIN: Duration = Duration::from_millis(20);
/// How long pressure is measured while reading pauses.
const PROBE: Duration = Duration::from_millis(60);
/// Pause between two probes that found our own pressure; doubles up to the longest. 80 ms in 30 s are 0.3 %.
const PROBE_PERIOD_MIN: Duration = Duration::from_secs(5);
/// Longest such pause.
const PROBE_PERIOD_MAX: Duration = Duration::from_secs(30);
/// How long is read between two pauses while others are under pressure.
const WORK: Duration = Duration::from_millis(100);

/// For what others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Cpu,
    Memory,
    Io,
}

impl Resource {
    const ALL: [Self; 3] = [Self::Memory, Self::Io, Self::Cpu];

    fn of(self, stalls: &Stalls) -> Duration {
        match self {
            Self::Cpu => stalls.cpu,
            Self::Memory => stalls.memory,
            Self::Io => stalls.io,
        }
    }

    /// Share of the time in which somebody waits that counts as pressure. Waiting for memory is rare on a healthy machine,
    /// waiting for a processor is not.
    fn threshold(self) -> f64 {
        match self {
            Self::Cpu => 0.5,
            Self::Memory => 0.1,
            Self::Io => 0.3,
        }
    }

    /// How long reading pauses after each [`WORK`]. Background threads hardly take processors from others; a disk serves
    /// what it has begun, and memory does not know priorities.
    fn pause(self) -> Duration {
        match self {
            Self::Cpu => Duration::from_millis(100),
            Self::Io => Duration::from_millis(300),
            Self::Memory => Duration::from_millis(400),
        }
    }
}

/// What readers ask before they read.
#[derive(Debug)]
pub struct Courtesy {
    gives_way: bool,
    /// The same as in `state`, for a glance.
    paused: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    paused: bool,
    over: bool,
    backed_off: BackedOff,
}

impl Courtesy {
    /// Gives way, or does not.
    pub fn new(gives_way: bool) -> Self {
        Self {
            gives_way,
            paused: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Puts the calling thread, which will read, into the background.
    pub fn enter(&self) {
        if self.gives_way {
            sys::io_priority::background();
        }
    }

    /// Waits while reading pauses.
    pub fn wait(&self) {
        if !self.paused.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.lock();
        while state.paused && !state.over {
            state = self.changed.wait(state).expect("not poisoned");
        }
    }

    /// For how long reading paused, by reason.
    pub fn backed_off(&self) -> BackedOff {
        self.lock().backed_off
    }

    /// Ends [`Courtesy::watch`] and all pauses.
    pub fn end(&self) {
        self.lock().over = true;
        self.set_paused(false);
    }

    /// Does `work` while another thread watches pressure. Afterwards this value is at its end.
    pub fn during<R>(&self, work: impl FnOnce() -> R) -> R {
        struct End<'a>(&'a Courtesy);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.end();
            }
        }
        std::thread::scope(|scope| {
            // Also when `work` panics: the scope waits for the thread that watches.
            let _end = End(self);
            if self.gives_way {
                scope.spawn(|| self.watch());
            }
            work()
        })
    }

    /// Watches pressure until [`Courtesy::end`] is called.
    pub fn watch(&self) {
        if self.gives_way {
            self.watch_with(|| Stalls::now().ok().flatten());
        }
    }

    /// The same with pressure as `look` tells it.
    fn watch_with(&self, mut look: impl FnMut() -> Option<Stalls>) {
        let mut period = PROBE_PERIOD_MIN;
        let mut next_probe = Instant::now();
        let Some(mut before) = look() else { return };
        let mut since = Instant::now();
        while self.sleep(POLL) {
            let Some(now) = look() else { return };
            let pressed = pressure(&before, &now, since.elapsed());
            (before, since) = (now, Instant::now());
            if pressed.is_none() || since < next_probe {
                continue;
            }
            let Some(others) = self.pause(DRAIN, PROBE, None, &mut look) else {
                next_probe = Instant::now() + period;
                period = PROBE_PERIOD_MAX.min(period * 2);
                continue;
            };
            period = PROBE_PERIOD_MIN;
            self.give_way(others, &mut look);
            let Some(now) = look() else { return };
            (before, since) = (now, Instant::now());
        }
    }

    /// Reads with pauses until there is no pressure in a pause.
    fn give_way(&self, mut others: Resource, look: &mut impl FnMut() -> Option<Stalls>) {
        tracing::info!(resource = ?others, "others are under pressure: reading pauses again and again");
        while self.sleep(WORK) {
            let pause = others.pause();
            match self.pause(DRAIN, pause - DRAIN, Some(others), look) {
                Some(still) => others = still,
                None => break,
            }
        }
        tracing::info!("the pressure is over");
    }

    /// Pauses reading, and tells for what others wait meanwhile. `reason` is what the time is counted for.
    fn pause(
        &self,
        drain: Duration,
        measured: Duration,
        reason: Option<Resource>,
        look: &mut impl FnMut() -> Option<Stalls>,
    ) -> Option<Resource> {
        let begin = Instant::now();
        self.set_paused(true);
        self.sleep(drain);
        let before = look();
        let since = Instant::now();
        self.sleep(measured);
        let after = look();
        let pressed = before
            .zip(after)
            .and_then(|(before, after)| pressure(&before, &after, since.elapsed()));
        self.set_paused(false);
        let mut state = self.lock();
        let seconds = begin.elapsed().as_secs_f64();
        match reason {
            Some(Resource::Cpu) => state.backed_off.cpu_seconds += seconds,
            Some(Resource::Memory) => state.backed_off.memory_seconds += seconds,
            Some(Resource::Io) => state.backed_off.io_seconds += seconds,
            None => {}
        }
        pressed
    }

    fn set_paused(&self, paused: bool) {
        self.lock().paused = paused;
        self.paused.store(paused, Ordering::Release);
        self.changed.notify_all();
    }

    /// Returns whether it is not over.
    fn sleep(&self, duration: Duration) -> bool {
        let state = self.lock();
        let over = self
            .changed
            .wait_timeout_while(state, duration, |state| !state.over)
            .expect("not poisoned");
        !over.0.over
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }
}

/// What was most waited for in `elapsed`, if any was waited for too long.
fn pressure(before: &Stalls, after: &Stalls, elapsed: Duration) -> Option<Resource> {
    let elapsed = elapsed.as_secs_f64().max(0.001);
    let share = |resource: &Resource| {
        let stalled = resource.of(after).saturating_sub(resource.of(before));
        stalled.as_secs_f64() / elapsed
    };
    Resource::ALL
        .into_iter()
        .find(|resource| share(resource) > resource.threshold())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Watches for `seconds` while a reader asks all the time. `stalled` says from moment to moment whether somebody waits
    /// for a disk: it is told whether reading pauses. Returns the share of the time in which reading paused.
    fn paused_share(seconds: f64, stalled: impl Fn(bool) -> bool + Sync) -> (f64, BackedOff) {
        let courtesy = Courtesy::new(true);
        let stall = Mutex::new((Instant::now(), Stalls::default()));
        let advance = || {
            let mut stall = stall.lock().unwrap();
            let elapsed = stall.0.elapsed();
            stall.0 = Instant::now();
            if stalled(courtesy.paused.load(Ordering::Acquire)) {
                stall.1.io += elapsed;
            }
            stall.1
        };
        let mut paused = Duration::ZERO;
        std::thread::scope(|scope| {
            scope.spawn(|| courtesy.watch_with(|| Some(advance())));
            scope.spawn(|| {
                while !courtesy.lock().over {
                    advance();
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let begin = Instant::now();
            while begin.elapsed().as_secs_f64() < seconds {
                let asked = Instant::now();
                courtesy.wait();
                paused += asked.elapsed();
                std::thread::sleep(Duration::from_millis(1));
            }
            courtesy.end();
        });
        (paused.as_secs_f64() / seconds, courtesy.backed_off())
    }

    #[test]
    fn pressure_of_our_own_is_left_alone_and_that_of_others_given_way_to() {
        let (share, backed_off) = paused_share(3.5, |paused| !paused);
        assert!(
            share < 0.1 && backed_off == BackedOff::default(),
            "own: {share} {backed_off:?}"
        );
        let (share, backed_off) = paused_share(3.5, |_| true);
        assert!(
            share > 0.3 && backed_off.io_seconds > 1.0,
            "others': {share} {backed_off:?}"
        );
        let (share, _) = paused_share(2.5, |_| false);
        assert!(share < 0.02, "none: {share}");
    }

    #[test]
    fn the_end_of_the_pressure_ends_the_pauses() {
        let begin = Instant::now();
        let (_, backed_off) = paused_share(4.0, |_| begin.elapsed() < Duration::from_millis(1800));
        assert!(
            backed_off.io_seconds > 0.2 && backed_off.io_seconds < 1.5,
            "{backed_off:?}"
        );
    }
}
