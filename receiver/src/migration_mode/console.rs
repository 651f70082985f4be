//! The machine's console: what it says, and the few words it understands.

use std::io::{BufRead as _, BufReader, Write as _};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// What somebody at the console asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Nothing,
    Help,
    Status,
    Convert,
    Finish,
    Reboot,
    PowerOff,
}

/// Shows text on the console.
pub(super) fn say(text: &str) {
    let mut stderr = std::io::stderr().lock();
    for line in text.lines() {
        let _ = write!(stderr, "go2cloud: {line}\r\n");
    }
    let _ = stderr.flush();
}

/// The next request; `Nothing` after a moment without one.
pub(super) fn next() -> Request {
    static LINES: OnceLock<Mutex<Receiver<String>>> = OnceLock::new();
    let lines = LINES.get_or_init(|| Mutex::new(listen()));
    match lines.lock().unwrap_or_else(PoisonError::into_inner).try_recv() {
        Ok(line) => understand(&line),
        Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
            thread::sleep(Duration::from_millis(200));
            Request::Nothing
        }
    }
}

fn understand(line: &str) -> Request {
    match line.trim() {
        "" => Request::Nothing,
        "status" => Request::Status,
        "convert" => Request::Convert,
        "finish" => Request::Finish,
        "reboot" => Request::Reboot,
        "poweroff" => Request::PowerOff,
        _ => Request::Help,
    }
}

/// Reads the console in a thread of its own: reading blocks.
fn listen() -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        loop {
            let Ok(console) = std::fs::File::open("/dev/console") else {
                thread::sleep(Duration::from_secs(1));
                continue;
            };
            for line in BufReader::new(console).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    return;
                }
            }
            thread::sleep(Duration::from_millis(200));
        }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_console() {
        assert_eq!(understand("finish\r"), Request::Finish);
        assert_eq!(understand(" "), Request::Nothing);
        assert_eq!(understand("what?"), Request::Help);
    }
}
