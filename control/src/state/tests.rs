//! Every status × event of both machines, as a picture that a reader compares with the documents.

use super::*;

const JOB_EVENTS: [JobEvent; 13] = [
    JobEvent::Start,
    JobEvent::Due,
    JobEvent::Stop,
    JobEvent::Delete,
    JobEvent::Rename,
    JobEvent::Retarget,
    JobEvent::Extend,
    JobEvent::Report,
    JobEvent::ReportStopped,
    JobEvent::ReportSuccess,
    JobEvent::ReportFailed,
    JobEvent::SourceLost,
    JobEvent::CleanedUp,
];

const SOURCE_EVENTS: [SourceEvent; 7] = [
    SourceEvent::Idle,
    SourceEvent::Busy,
    SourceEvent::Lost,
    SourceEvent::CreateJob,
    SourceEvent::StartJob,
    SourceEvent::Modify,
    SourceEvent::Delete,
];

#[test]
fn every_job_status_and_event() {
    let mut picture = String::new();
    for status in JobStatus::ALL {
        let allowed: Vec<String> = JOB_EVENTS
            .into_iter()
            .filter_map(|event| match status.on(event) {
                JobStep::Go(to) => Some(format!("{event:?} -> {}", to.as_str())),
                JobStep::Stay => Some(format!("{event:?}")),
                JobStep::No => None,
            })
            .collect();
        picture += &format!("{}: {}\n", status.as_str(), allowed.join(", "));
    }
    let wanted = "\
PENDING: Start -> RUNNING, Due -> RUNNING, Delete -> DELETING, Rename, Retarget, Extend, SourceLost
RUNNING: Stop -> STOPPING, Rename, Extend, Report, ReportStopped -> STOPPED, ReportSuccess -> SUCCESS, ReportFailed -> FAILED, SourceLost
SUCCESS: Delete -> DELETING, Rename, ReportSuccess, SourceLost
FAILED: Start -> RUNNING, Delete -> DELETING, Rename, Retarget, Extend, ReportFailed, SourceLost
STOPPING: Rename, Report, ReportStopped -> STOPPED, ReportSuccess -> SUCCESS, ReportFailed -> FAILED, SourceLost -> STOPPED
STOPPED: Start -> RUNNING, Delete -> DELETING, Rename, Extend, ReportStopped, SourceLost
DELETING: SourceLost, CleanedUp -> DELETED
DELETED: SourceLost, CleanedUp
";
    assert_eq!(picture, wanted);
}

#[test]
fn every_source_status_and_event() {
    let mut picture = String::new();
    for status in SourceStatus::ALL {
        let steps: Vec<String> = SOURCE_EVENTS
            .into_iter()
            .map(|event| match status.on(event) {
                SourceStep::Go(to) => format!("{event:?} -> {}", to.as_str()),
                SourceStep::Stay => format!("{event:?}"),
                SourceStep::No(code) => format!("{event:?} ! {code:?}"),
            })
            .collect();
        picture += &format!("{}: {}\n", status.as_str(), steps.join(", "));
    }
    let wanted = "\
OFFLINE: Idle -> ONLINE, Busy -> MIGRATING, Lost, CreateJob ! InvalidLiveMigrateOnlineSourceServerId, StartJob ! SourceServerStatusNotSupport, Modify, Delete -> DELETED
ONLINE: Idle, Busy -> MIGRATING, Lost -> OFFLINE, CreateJob, StartJob, Modify, Delete -> DELETED
MIGRATING: Idle -> ONLINE, Busy, Lost -> OFFLINE, CreateJob ! SourceServerRelatedUnFinishedJob, StartJob ! SourceServerStatusNotSupport, Modify, Delete ! SourceServerStatusNotSupport
DELETING: Idle, Busy, Lost, CreateJob ! InvalidLiveMigrateOnlineSourceServerId, StartJob ! SourceServerStatusNotSupport, Modify, Delete -> DELETED
DELETED: Idle ! InvalidLiveMigrateSourceServerId, Busy ! InvalidLiveMigrateSourceServerId, Lost, CreateJob ! InvalidLiveMigrateOnlineSourceServerId, StartJob ! InvalidLiveMigrateSourceServerId, Modify ! InvalidLiveMigrateSourceServerId, Delete ! InvalidLiveMigrateSourceServerId
";
    assert_eq!(picture, wanted);
}

#[test]
fn each_row_of_a_table_stands_at_its_event() {
    for (index, (event, _)) in JOB_TABLE.iter().enumerate() {
        assert_eq!(index, *event as usize, "{event:?}");
        assert_eq!(*event, JOB_EVENTS[index]);
    }
    for (index, (event, _)) in SOURCE_TABLE.iter().enumerate() {
        assert_eq!(index, *event as usize, "{event:?}");
        assert_eq!(*event, SOURCE_EVENTS[index]);
    }
    for (index, status) in JobStatus::ALL.into_iter().enumerate() {
        assert_eq!(index, status as usize);
    }
    for (index, status) in SourceStatus::ALL.into_iter().enumerate() {
        assert_eq!(index, status as usize);
    }
}
