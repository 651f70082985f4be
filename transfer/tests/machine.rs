//! What a source asks of the target machine, over loopback; and the end of a session, which is no failure.
#![cfg(test)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use transfer::Kind;
use transfer::machine::{Address, Answer, Desk, Request, ask};
use transfer::progress::{Event, Observer, Silent, StopFlag};
use transfer::secret::Secret;
use transfer::source::{Compression, Retry, Rounds, SourceVolume, SyncPlan, TreeSource, sync};
use transfer::target::{Receiver, ServePlan, TargetVolume};
use transfer::throttle::Throttle;

struct Bed {
    folder: tempfile::TempDir,
    secret: Secret,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["source", "target"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("source/file"), "content").unwrap();
        let secret = Secret::generate().unwrap();
        Self { folder, secret }
    }

    fn receiver(&self, volume: TargetVolume) -> Receiver {
        let plan = ServePlan {
            listen: "127.0.0.1:0".parse().unwrap(),
            secret: self.secret.clone(),
            volume,
            journal: self.folder.path().join("journal"),
        };
        Receiver::bind(plan).unwrap()
    }

    fn tree(&self) -> TargetVolume {
        TargetVolume::Tree {
            root: self.folder.path().join("target"),
        }
    }

    fn sync(&self, target: SocketAddr, state: &str) -> transfer::Result<transfer::progress::Summary> {
        let plan = SyncPlan {
            target: vec![target],
            secret: self.secret.clone(),
            connections: 4,
            volume: SourceVolume::Tree(TreeSource {
                root: self.folder.path().join("source"),
                cross_mounts: false,
                excludes: Vec::new(),
                never: Vec::new(),
                estimate: false,
                freeze: None,
            }),
            state: self.folder.path().join(state),
            throttle: Arc::new(Throttle::new(0)),
            compression: Compression::Auto,
            verify: false,
            rounds: Rounds::Count(1),
            // The session before may not have ended yet.
            retry: Retry::Times(20),
            gives_way: false,
        };
        sync(&plan, &Silent, &StopFlag::default())
    }

    fn ask(&self, target: SocketAddr, request: &Request) -> (transfer::Result<Answer>, Vec<String>) {
        let told = Mutex::new(Vec::new());
        let tell = |text: &str| told.lock().unwrap().push(text.to_owned());
        let address = Address {
            target: &[target],
            secret: &self.secret,
            attempts: 5,
        };
        let answer = ask(&address, request, &tell, &StopFlag::default());
        (answer, told.into_inner().unwrap())
    }
}

/// Runs the receiver while `work` lasts, and returns its warnings.
fn serving(receiver: &Receiver, work: impl FnOnce(SocketAddr)) -> Vec<String> {
    let (watcher, stop) = (Warnings::default(), StopFlag::default());
    std::thread::scope(|scope| {
        scope.spawn(|| receiver.run(&watcher, &stop).unwrap());
        let _end = End(&stop);
        work(receiver.local_addr());
    });
    watcher.0.into_inner().unwrap()
}

/// Ends the receiver also when the work panics.
struct End<'a>(&'a StopFlag);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Observer for Warnings {
    fn event(&self, event: &Event) {
        if let Event::Warning { message } = event {
            self.0.lock().unwrap().push(message.clone());
        }
    }
}

struct Echo;

impl Desk for Echo {
    fn ask(&self, request: &Request, tell: &(dyn Fn(&str) + Sync)) -> Answer {
        match request {
            Request::Prepare { plan } => {
                tell("one");
                tell("two");
                Answer::Done { text: plan.clone() }
            }
            Request::Convert => Answer::Refused {
                text: "no system".to_owned(),
            },
            Request::Restart => panic!("a defect"),
        }
    }
}

#[test]
fn a_machine_answers_what_it_is_asked() {
    let bed = Bed::new();
    let receiver = bed.receiver(TargetVolume::Nothing).with_desk(Arc::new(Echo));
    serving(&receiver, |target| {
        let (answer, told) = bed.ask(target, &Request::Prepare { plan: "{}".into() });
        assert_eq!(answer.unwrap(), Answer::Done { text: "{}".into() });
        assert_eq!(told, ["one", "two"]);
        let (answer, _) = bed.ask(target, &Request::Convert);
        assert_eq!(
            answer.unwrap(),
            Answer::Refused {
                text: "no system".into()
            }
        );
        let (answer, _) = bed.ask(target, &Request::Restart);
        assert!(matches!(answer.unwrap(), Answer::Refused { text } if text.contains("defect")));
    });
}

#[test]
fn a_receiver_that_is_no_machine_says_so() {
    let bed = Bed::new();
    let receiver = bed.receiver(bed.tree());
    serving(&receiver, |target| {
        assert_eq!(bed.ask(target, &Request::Convert).0.unwrap(), Answer::NotAMachine);
    });
}

#[test]
fn a_stranger_cannot_ask() {
    let bed = Bed::new();
    let receiver = bed.receiver(TargetVolume::Nothing).with_desk(Arc::new(Echo));
    serving(&receiver, |target| {
        let address = Address {
            target: &[target],
            secret: &Secret::generate().unwrap(),
            attempts: 5,
        };
        let error = ask(&address, &Request::Restart, &|_| {}, &StopFlag::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
    });
}

#[test]
fn nothing_is_served_until_there_is_a_volume() {
    let bed = Bed::new();
    let receiver = bed.receiver(TargetVolume::Nothing).with_desk(Arc::new(Echo));
    serving(&receiver, |target| {
        assert_eq!(bed.sync(target, "state").unwrap_err().kind(), Kind::Refused);
        receiver.exchange(bed.tree()).unwrap();
        assert!(bed.sync(target, "state").unwrap().ok);
    });
    let copied = std::fs::read(bed.folder.path().join("target/file")).unwrap();
    assert_eq!(copied, b"content");
}

#[test]
fn a_goodbye_is_not_taken_for_a_cut() {
    let bed = Bed::new();
    let receiver = bed.receiver(bed.tree());
    let warnings = serving(&receiver, |target| {
        for _ in 0..20 {
            assert!(bed.sync(target, "state").unwrap().ok);
        }
    });
    assert_eq!(warnings, [""; 0]);
}
