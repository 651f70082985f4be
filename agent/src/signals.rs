//! Ctrl-C and SIGTERM ask for a stop at the next safe point; a second one ends the program at once.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use transfer::progress::StopFlag;

use crate::exit;
use crate::output::complain;

/// Lets SIGINT and SIGTERM set `stop` from now on.
///
/// # Errors
/// The kernel refuses the thread or the signal handlers.
pub fn stop_on_signals(stop: Arc<StopFlag>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = async move {
        for times in 0u32.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if times > 0 {
                // What is durable stays durable: the journal is the target's, and it survives even kill -9.
                std::process::exit(i32::from(exit::INTERRUPTED.0));
            }
            stop.stop();
            complain("Stopping at the next safe point. Once more ends at once.");
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || runtime.block_on(wait))?;
    Ok(())
}
