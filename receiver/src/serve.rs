//! The story of serving: bind → say so → serve until told to stop.
//!
//! Standard output carries the ready line and, with `--json`, the events; everything else goes to standard error.

use std::io::Write as _;
use std::sync::Arc;
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;
use transfer::progress::{Event, Observer, StopFlag};
use transfer::target::Receiver;
use transfer::{Error, Kind, Result};

use crate::boot_check::desk::BootDesk;
use crate::plan::Plan;

/// Serves `plan` until SIGTERM or SIGINT.
///
/// # Errors
/// The address cannot be listened on, or the medium refuses.
pub fn serve(plan: Plan, output: &Output) -> Result<()> {
    let stop = stop_on_signals()?;
    let desk = BootDesk::new(&plan.serve.journal);
    let receiver = Receiver::bind(plan.serve)?.with_checker(Arc::new(desk));
    output.listening(receiver.local_addr(), receiver.receipt_key());
    receiver.run(output, &stop)
}

/// Signals are taken by one thread, so that nothing else has to be safe inside a handler. Must run before other
/// threads start: they inherit the mask.
fn stop_on_signals() -> Result<Arc<StopFlag>> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    let failed = |error: nix::Error| Error::new(Kind::Medium, "wait for signals").because(error);
    signals.thread_block().map_err(failed)?;
    let stop = Arc::new(StopFlag::default());
    let flag = Arc::clone(&stop);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if signals.wait().is_ok() {
                flag.stop();
            }
            // A second signal does not wait for anything.
            if signals.wait().is_ok() {
                std::process::exit(1);
            }
        })
        .map_err(|error| Error::new(Kind::Medium, "start a thread").because(error))?;
    Ok(stop)
}

/// Where the program reports: plain words, or one JSON object per line.
pub struct Output {
    json: bool,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Listening { address: String, receipt_key: String },
    Failed { error: String },
}

impl Output {
    /// Reports as JSON lines or as plain words.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    fn listening(&self, address: std::net::SocketAddr, receipt_key: String) {
        if self.json {
            write_line(&Line::Listening {
                address: address.to_string(),
                receipt_key,
            });
        } else {
            let mut stdout = anstream::stdout().lock();
            let _ = writeln!(stdout, "listening on {address}");
            let _ = writeln!(stdout, "receipts are signed by {receipt_key}");
            let _ = stdout.flush();
        }
    }

    /// Reports the error that ended the program.
    pub fn failed(&self, error: &Error) {
        if self.json {
            write_line(&Line::Failed {
                error: crate::chain(error),
            });
        }
        crate::print_error(error);
    }
}

impl Observer for Output {
    fn event(&self, event: &Event) {
        if self.json {
            write_line(event);
            return;
        }
        match event {
            Event::Warning { message } => tracing::warn!("{message}"),
            Event::Retrying { error, .. } => tracing::warn!("{error}"),
            Event::Connected { target, connections } => {
                tracing::info!("connected: {target}, {connections} data connections");
            }
            _ => {}
        }
    }
}

fn write_line(line: &impl Serialize) {
    // Serialising these enums cannot fail; a reader that went away must not end a migration.
    if let Ok(text) = serde_json::to_string(line) {
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "{text}");
        let _ = stdout.flush();
    }
}
