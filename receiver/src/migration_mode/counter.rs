//! Where the machine is spoken to: it serves its volume, answers what sources ask of it, and shows on the console how
//! to reach it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::system::RebootCommand;
use transfer::machine::{Answer, Desk, Request};
use transfer::progress::StopFlag;
use transfer::target::{Receiver, ServePlan, TargetVolume};
use transfer::{Error, Kind, Result};

use super::Narrator;
use super::console::say;
use super::preparation::Preparation;
use super::station::{self, Station};

/// Journals live in memory: a machine in migration mode that restarts begins with a comparison of everything.
const JOURNAL: &str = "/run/go2cloud/journal";
/// Time for a source to hear the last answer before the machine goes.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The open counter.
pub(super) struct Counter {
    station: Arc<Station>,
    addresses: Vec<String>,
    serving: Mutex<Option<Serving>>,
}

struct Serving {
    receiver: Arc<Receiver>,
    stop: Arc<StopFlag>,
    thread: JoinHandle<()>,
}

impl Counter {
    pub(super) fn new(station: Arc<Station>, addresses: Vec<String>) -> Self {
        Self {
            station,
            addresses,
            serving: Mutex::new(None),
        }
    }

    /// Begins to serve.
    pub(super) fn open(&self) -> Result<()> {
        let plan = ServePlan {
            listen: self.station.settings.listen,
            secret: self.station.secret.clone(),
            volume: self.station.volume(),
            journal: PathBuf::from(JOURNAL),
        };
        let receiver = Receiver::bind(plan)?;
        let receiver = Arc::new_cyclic(|own: &Weak<Receiver>| {
            receiver.with_desk(Arc::new(Clerk {
                station: Arc::clone(&self.station),
                receiver: Weak::clone(own),
            }))
        });
        let stop = Arc::new(StopFlag::default());
        let (served, flag) = (Arc::clone(&receiver), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("serve".to_owned())
            .spawn(move || {
                if let Err(error) = served.run(&Narrator, &flag) {
                    say(&format!("serving ended: {}", crate::chain(&error)));
                }
            })
            .map_err(|error| Error::new(Kind::Medium, "start a thread").because(error))?;
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = Some(Serving {
            receiver,
            stop,
            thread,
        });
        self.help();
        Ok(())
    }

    /// Ends serving; what has arrived is durable then.
    pub(super) fn close(&self) {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(serving) = serving {
            serving.stop.stop();
            // A panic of the thread was shown already.
            let _ = serving.thread.join();
        }
    }

    /// Leaves migration mode.
    pub(super) fn leave(&self, command: RebootCommand) -> ! {
        if self.station.is_to_restart() {
            say("restarting into the migrated system, as the source asked");
            thread::sleep(LAST_WORDS);
        }
        self.close();
        self.station.release();
        super::leave(command)
    }

    pub(super) fn status(&self) {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let is_serving = serving
            .as_ref()
            .is_some_and(|serving| !serving.thread.is_finished());
        say(if is_serving { "serving" } else { "not serving" });
    }

    pub(super) fn help(&self) {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let port = serving
            .as_ref()
            .map_or(0, |serving| serving.receiver.local_addr().port());
        let what = if self.station.is_tree() {
            "/"
        } else {
            "--disk DISK (one for each target disk)"
        };
        let mut text = format!(
            "listening on port {port}; addresses: {}\n",
            self.addresses.join(", ")
        );
        if self.station.settings.secret.is_none() {
            // Nobody configured one: it has to be carried by hand, and this console is where.
            let secret = String::from_utf8_lossy(self.station.secret.expose()).into_owned();
            text.push_str(&format!("secret: {secret}\n"));
        }
        if let Some(serving) = serving.as_ref() {
            text.push_str(&format!(
                "receipts are signed by {}\n",
                serving.receiver.receipt_key()
            ));
        }
        let address = self.addresses.first().map_or("ADDRESS", String::as_str);
        text.push_str(&format!(
            "at the source: go2cloud sync --to {address}:{port} --secret-file FILE {what}\n\
             or by a job: go2cloud -no-console -remote-ip {address} --secret-file FILE\n\
             commands here: status, convert, finish (convert and reboot), reboot, poweroff, help\nREADY"
        ));
        say(&text);
    }
}

/// Does what a source asks for.
struct Clerk {
    station: Arc<Station>,
    receiver: Weak<Receiver>,
}

impl Clerk {
    fn serve(&self, volume: TargetVolume) -> Result<()> {
        self.receiver
            .upgrade()
            .map_or(Ok(()), |receiver| receiver.exchange(volume))
    }

    fn prepare(&self, plan: &str) -> Result<Answer> {
        let text = self.station.prepare(Preparation::parse(plan)?)?;
        self.serve(self.station.volume())?;
        say(&format!("prepared by the source: {text}"));
        Ok(Answer::Done { text })
    }

    fn convert(&self, tell: &(dyn Fn(&str) + Sync)) -> Result<Answer> {
        // What is being converted must not be written.
        self.serve(TargetVolume::Nothing)?;
        let result = self.station.convert(tell);
        super::report(&result);
        if !result.as_ref().is_ok_and(|report| report.ok) {
            self.serve(self.station.volume())?;
        }
        let report = result?;
        let text = station::findings(&report).join("\n");
        Ok(if report.ok {
            Answer::Done { text }
        } else {
            Answer::Refused { text }
        })
    }
}

impl Desk for Clerk {
    fn ask(&self, request: &Request, tell: &(dyn Fn(&str) + Sync)) -> Answer {
        let done = match request {
            Request::Prepare { plan } => self.prepare(plan),
            Request::Convert => self.convert(tell),
            Request::Restart => {
                self.station.restart_soon();
                Ok(Answer::Done {
                    text: "restarting".to_owned(),
                })
            }
        };
        done.unwrap_or_else(|error| {
            let text = crate::chain(&error);
            say(&text);
            Answer::Refused { text }
        })
    }
}
