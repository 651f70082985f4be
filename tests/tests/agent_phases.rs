//! A job paused and resumed, and its agent killed and started again, in every phase: each time it goes on, target and
//! source are equal in the end, and what was durable is not sent twice.
//!
//! No phase is met by waiting for so long: it is recognised by what the programs say, and made to last by a hook that is
//! held, a receiver that is stopped, or the job's speed limit.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use go2cloud_tests::bed::relay_to;
use go2cloud_tests::cloud::{Cloud, member};
use go2cloud_tests::process::Process;
use rustix::process::Signal;
use serde_json::json;

/// A phase of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The target enters migration mode; no data yet.
    Enter,
    /// The first round sends everything.
    FullRound,
    /// The second round sends what has changed meanwhile.
    SecondRound,
    /// An incremental phase waits for its next round.
    Wait,
    /// The target reads everything back.
    Verify,
    /// The target leaves migration mode.
    Leave,
}

/// What happens to the job then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    /// It is paused, and resumed when it has come to rest.
    Pause,
    /// Its agent is killed, and started again.
    Kill,
}

/// Files of one MiB: ten seconds and more of each round that sends them all.
const LARGE: usize = 24;
/// What goes over the wire in a second, in KB.
const LIMIT: u32 = 2400;
/// What can be on its way when the agent ends, in bytes: one of those files in each of its four connections.
const ON_ITS_WAY: u64 = 4 << 20;
/// A file that takes the target long to read and the wire nothing to carry, in bytes.
const LONG: usize = 192 << 20;

/// A job on its way, and a count of what its agents send.
struct Story {
    /// Ends before the folder that it writes to.
    agent: Option<Process>,
    cloud: Cloud,
    phase: Phase,
    instance: String,
    job: String,
    sent: Arc<AtomicU64>,
}

impl Story {
    /// Starts a job that will dwell in `phase`.
    fn begin(phase: Phase) -> Self {
        let cloud = Cloud::with_hooks();
        let is_slow = matches!(phase, Phase::FullRound | Phase::SecondRound);
        cloud.fill_source(50, if is_slow { LARGE } else { 4 });
        if phase == Phase::Verify {
            let line = b"compresses to nothing, and is read in full when it is read back\n";
            fs::write(cloud.path("source/long"), line.repeat(LONG / line.len())).expect("a file");
        }
        let instance = cloud.create_instance("");
        let sent = count_what_is_sent(&cloud, &instance);
        match phase {
            Phase::Enter => cloud.hooks().hold(&instance, "enter"),
            Phase::Leave => cloud.hooks().hold(&instance, "exit"),
            _ => {}
        }
        let agent = cloud.start("");
        let source = cloud.wait_for_source();
        let options = match phase {
            Phase::FullRound | Phase::SecondRound => format!("--bandwidth-limit {LIMIT}"),
            Phase::Wait => "--incremental-time 60".to_owned(),
            Phase::Verify => "--checksum".to_owned(),
            Phase::Enter | Phase::Leave => String::new(),
        };
        let job = cloud.start_job(&source, &format!("--instance {instance} {options}"));
        Self {
            cloud,
            phase,
            instance,
            job,
            sent,
            agent: Some(agent),
        }
    }

    /// Waits until the job is in its phase.
    fn reach(&self) {
        let (cloud, job) = (&self.cloud, &self.job);
        match self.phase {
            Phase::Enter => cloud.hooks().wait_for(&self.instance, "enter"),
            Phase::FullRound => {
                cloud.wait_for_progress(job, 55.0);
                let shown = cloud.job(job);
                let speed: u32 = member(&shown, "LastSpeed").parse().expect("KB/s");
                assert!(
                    (LIMIT / 2..LIMIT * 3 / 2).contains(&speed),
                    "{speed} KB/s of {LIMIT}"
                );
                let left: u32 = member(&shown, "RemainingTimeEstimate").parse().expect("minutes");
                assert!(left <= 2, "{left} minutes for some seconds");
            }
            Phase::SecondRound => {
                cloud.wait_for_progress(job, 10.0);
                cloud.write_large(51, LARGE);
                cloud.wait_for_message(job, "round 2 started");
            }
            Phase::Wait => {
                cloud.wait_for_message(job, "incremental round 1 finished");
                fs::write(cloud.path("source/while it waits"), "changed").expect("a file");
            }
            Phase::Verify => {
                cloud.wait_for_log("round finished round=2");
                cloud.hooks().signal(&self.instance, Signal::STOP);
            }
            Phase::Leave => cloud.hooks().wait_for(&self.instance, "exit"),
        }
    }

    /// What was held goes on.
    fn let_go(&self) {
        let hooks = self.cloud.hooks();
        match self.phase {
            Phase::Enter => hooks.release(&self.instance, "enter"),
            Phase::Verify => hooks.signal(&self.instance, Signal::CONT),
            Phase::Leave => hooks.release(&self.instance, "exit"),
            Phase::FullRound | Phase::SecondRound | Phase::Wait => {}
        }
    }

    fn pause(&self) {
        let (cloud, job) = (&self.cloud, &self.job);
        cloud.admin(&format!("job stop {job}"));
        if matches!(self.phase, Phase::Enter | Phase::Leave) {
            assert_eq!(member(&cloud.job(job), "Status"), "STOPPING");
        }
        cloud.wait_for_log("the control plane ends this run of the job");
        if self.phase == Phase::Verify {
            // Its receiver answers nothing, and yet the job comes to rest.
            cloud.wait_for(job, "STOPPED");
        }
        self.let_go();
        if self.phase == Phase::Leave {
            // There is nothing left that could be paused: the data are there, and the target is on its way.
            return;
        }
        let shown = cloud.wait_for(job, "STOPPED");
        assert_eq!(member(&shown, "State"), "File Transmission Stopped");
        let shown = cloud.admin(&format!("instance show {} --json", self.instance));
        assert!(shown.contains("\"MigrationMode\":true"), "{shown}");
        cloud.admin(&format!("job start {job}"));
    }

    fn kill(&mut self) {
        self.agent.take().expect("an agent").kill();
        assert_eq!(member(&self.cloud.job(&self.job), "Status"), "RUNNING");
        let go_on = matches!(self.phase, Phase::FullRound | Phase::SecondRound);
        // The rest at full speed.
        self.agent = Some(self.cloud.start(if go_on { "-bandwidth-limit 0" } else { "" }));
        self.let_go();
    }

    /// Waits for the end and looks at what came of it. `before` is what had been sent when it happened.
    fn end(&self, blow: Blow, before: u64) {
        let cloud = &self.cloud;
        if self.phase == Phase::Wait {
            let finish = || {
                let mut command = cloud.tool("finish");
                command
                    .output()
                    .expect("the agent runs")
                    .status
                    .success()
                    .then_some(())
            };
            cloud.wait("the job to run again", finish);
        }
        cloud.wait_for(&self.job, "SUCCESS");
        cloud.assert_arrived(&self.instance);
        let sources = cloud.admin("source list --json");
        assert_eq!(sources.matches("\"SourceServerId\"").count(), 1, "{sources}");
        // What was on its way is sent again, and after a kill what had arrived since the last checkpoint.
        let cut_off = match blow {
            Blow::Pause => before.min(ON_ITS_WAY),
            Blow::Kill => before.min(ON_ITS_WAY) + before / 3,
        };
        let (content, again) = match self.phase {
            Phase::Enter => (4 << 20, 0),
            Phase::FullRound => ((LARGE as u64) << 20, cut_off),
            // What had been sent when it changed, and everything once more.
            Phase::SecondRound => ((2 * LARGE as u64) << 20, cut_off),
            Phase::Wait | Phase::Verify | Phase::Leave => (before, 0),
        };
        // Small files, names, and what else is said.
        let more = content / 16 + (1 << 20);
        let sent = self.sent.load(Ordering::Relaxed);
        assert!(
            sent <= content + more + again,
            "{sent} bytes were sent, {before} of them before the {blow:?}, of {content}"
        );
    }
}

/// Puts something between the agents and the receiver of an instance that counts the bytes to the receiver.
fn count_what_is_sent(cloud: &Cloud, instance: &str) -> Arc<AtomicU64> {
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let port = cloud.hooks().path(instance, "port");
    let find = move || {
        let port = fs::read_to_string(&port).ok()?.trim().parse().ok()?;
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    let address = relay_to(find, move |_, _, piece| {
        count.fetch_add(piece.len() as u64, Ordering::Relaxed);
        true
    });
    let port: u16 = address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
        .expect("a port");
    let answer = json!({"Ip": "127.0.0.1", "LanIp": "127.0.0.1", "Port": port});
    cloud.hooks().answer(instance, &answer.to_string());
    sent
}

/// Both blows, each to a job of its own, at the same time: most of it is waiting.
fn survives(phase: Phase) {
    std::thread::scope(|scope| {
        for blow in [Blow::Pause, Blow::Kill] {
            scope.spawn(move || {
                let mut story = Story::begin(phase);
                story.reach();
                let before = story.sent.load(Ordering::Relaxed);
                match blow {
                    Blow::Pause => story.pause(),
                    Blow::Kill => story.kill(),
                }
                story.end(blow, before);
            });
        }
    });
}

#[test]
fn while_the_target_enters_migration_mode() {
    survives(Phase::Enter);
}

#[test]
fn in_the_full_round() {
    survives(Phase::FullRound);
}

#[test]
fn in_the_second_round() {
    survives(Phase::SecondRound);
}

#[test]
fn while_an_incremental_phase_waits() {
    survives(Phase::Wait);
}

#[test]
fn while_the_target_reads_everything_back() {
    survives(Phase::Verify);
}

#[test]
fn while_the_target_leaves_migration_mode() {
    survives(Phase::Leave);
}
