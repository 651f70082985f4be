//! Outages: the control plane is away, the agent is killed, the machine goes down with all that ran on it. The job goes on
//! by itself each time.

use std::fs;
use std::time::Duration;

use go2cloud_tests::cloud::{Cloud, member};
use rustix::process::{Pid, Signal, kill_process};

/// How long the control plane is away.
const OUTAGE: Duration = Duration::from_secs(180);

#[test]
fn minutes_without_the_control_plane_do_not_hold_up_the_data() {
    let mut cloud = Cloud::with_hooks();
    cloud.fill_source(60, 12);
    let under_way = cloud.under_way("", "--bandwidth-limit 2400 --checksum");
    let (instance, job) = (&under_way.instance, &under_way.job);
    cloud.wait_for_progress(job, 10.0);
    let outage = std::thread::spawn(|| std::thread::sleep(OUTAGE));
    cloud.control.kill();
    // All data arrive meanwhile; the target can leave migration mode only when somebody answers.
    cloud.wait_for_log("the target leaves migration mode");
    assert!(!outage.is_finished(), "the data waited for the control plane");
    cloud.assert_arrived(instance);
    outage.join().expect("a thread that sleeps");
    cloud.control.start_again();
    let shown = cloud.wait_for(job, "SUCCESS");
    assert_eq!(member(&shown, "Result"), "succ");
    assert_eq!(member(&cloud.admin("source list --json"), "Status"), "ONLINE");
    cloud.assert_arrived(instance);
}

#[test]
fn a_control_plane_that_restarts_brings_its_receivers_back() {
    let mut cloud = Cloud::new();
    cloud.fill_source(61, 24);
    let under_way = cloud.under_way("", "--bandwidth-limit 2400");
    let (instance, job) = (&under_way.instance, &under_way.job);
    cloud.wait_for_progress(job, 10.0);
    cloud.control.kill_and_restart();
    cloud.wait_for(job, "SUCCESS");
    cloud.assert_arrived(instance);
}

/// Everything on the machine ends at once and comes up again, in any order: the files of the last life are still there, and
/// the process ids in them belong to others.
#[test]
fn a_machine_that_loses_power_goes_on_when_it_is_back() {
    let mut cloud = Cloud::new();
    cloud.fill_source(62, 24);
    let instance = cloud.create_instance("");
    let daemon = format!("{} -ignore-check -daemon -bandwidth-limit 2400", cloud.flags());
    let run = |line: &str| {
        let output = cloud.tool(line).output().expect("the agent runs");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    };
    run(&daemon);
    let source = cloud.wait_for_source();
    let job = cloud.start_job(&source, &format!("--instance {instance}"));
    cloud.wait_for_progress(&job, 30.0);
    let folder = cloud.instance_folder(&instance);
    let receiver = folder
        .parent()
        .expect("the instance's folder")
        .join("receiver.pid");
    let agent = cloud.path("state/go2cloud.pid");
    for path in [&agent, &receiver] {
        let process = fs::read_to_string(path).expect("a process id");
        let process = Pid::from_raw(process.trim().parse().expect("a number")).expect("a process");
        kill_process(process, Signal::KILL).expect("it runs");
    }
    let before = cloud.progress(&job);
    // Whoever has these process ids now must be left alone: they are this test's.
    let own = std::process::id().to_string();
    for path in [&agent, &cloud.path("state/agent.lock")] {
        fs::write(path, &own).expect("a file of the last life");
    }
    cloud.control.kill_and_restart();
    // Not `run`: the agent may be up before the control plane answers its first question.
    let start = || {
        let output = cloud.tool(&daemon).output().expect("the agent runs");
        output.status.success().then_some(())
    };
    cloud.wait("the agent to start again", start);
    assert_ne!(fs::read_to_string(&agent).expect("a process id"), own);
    cloud.wait_for(&job, "SUCCESS");
    assert!(cloud.progress(&job) > before);
    cloud.assert_arrived(&instance);
    // And it is the same source as before, waiting for the next job.
    let sources = cloud.admin("source list --json");
    assert_eq!(sources.matches("\"SourceServerId\"").count(), 1, "{sources}");
    let process = fs::read_to_string(&agent).expect("a process id");
    let process = Pid::from_raw(process.trim().parse().expect("a number")).expect("a process");
    kill_process(process, Signal::TERM).expect("it runs");
    cloud.wait("the goodbye", || {
        cloud
            .admin("source list --json")
            .contains("\"OFFLINE\"")
            .then_some(())
    });
}

/// The receiver alone dies, and is brought back by the control plane: the agent finds it again.
#[test]
fn a_receiver_that_dies_is_found_again() {
    let cloud = Cloud::new();
    cloud.fill_source(63, 16);
    let under_way = cloud.under_way("", "--bandwidth-limit 2400");
    let (instance, job) = (&under_way.instance, &under_way.job);
    cloud.wait_for_progress(job, 30.0);
    let folder = cloud.instance_folder(instance);
    let file = folder
        .parent()
        .expect("the instance's folder")
        .join("receiver.pid");
    let process = fs::read_to_string(file).expect("a process id");
    let process = Pid::from_raw(process.trim().parse().expect("a number")).expect("a process");
    kill_process(process, Signal::KILL).expect("it runs");
    cloud.wait_for(job, "SUCCESS");
    assert!(cloud.log().contains("connection lost"), "{}", cloud.log());
    cloud.assert_arrived(instance);
}
