//! The state machines of jobs and sources, as tables.
//!
//! Two tables say everything: which event moves which status where, and which events are refused and with what code. The
//! actions ask the tables before they change anything, and the denied actions that clients can ask for are read from the
//! same tables, so what is announced and what happens cannot differ.

use serde::{Deserialize, Serialize};

use crate::code::Code;

/// Status of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobStatus {
    /// Created, not started.
    Pending,
    /// Migrating.
    Running,
    /// Ended well.
    Success,
    /// Ended badly; can be started again.
    Failed,
    /// Asked to pause; the agent has not come to rest yet.
    Stopping,
    /// Paused; can be started again.
    Stopped,
    /// Being cleaned up.
    Deleting,
    /// Gone; kept for the record.
    Deleted,
}

/// What can happen to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// The user starts, retries or resumes it.
    Start,
    /// Its scheduled time has come.
    Due,
    /// The user pauses it.
    Stop,
    /// The user deletes it.
    Delete,
    /// The user changes its name or description.
    Rename,
    /// The user changes its target or schedule.
    Retarget,
    /// The user changes how long increments are synchronised.
    Extend,
    /// The agent reports progress.
    Report,
    /// The agent reports that it came to rest.
    ReportStopped,
    /// The agent reports success.
    ReportSuccess,
    /// The agent reports failure.
    ReportFailed,
    /// The source went silent.
    SourceLost,
    /// Everything that it left behind is cleaned up.
    CleanedUp,
}

/// What an event does to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobStep {
    /// The status becomes another.
    Go(JobStatus),
    /// Allowed, and the status stays.
    Stay,
    /// Refused.
    No,
}

impl JobStatus {
    /// All, in the order of the table's columns.
    pub const ALL: [JobStatus; 8] = [
        JobStatus::Pending,
        JobStatus::Running,
        JobStatus::Success,
        JobStatus::Failed,
        JobStatus::Stopping,
        JobStatus::Stopped,
        JobStatus::Deleting,
        JobStatus::Deleted,
    ];

    /// The text on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            JobStatus::Pending => "PENDING",
            JobStatus::Running => "RUNNING",
            JobStatus::Success => "SUCCESS",
            JobStatus::Failed => "FAILED",
            JobStatus::Stopping => "STOPPING",
            JobStatus::Stopped => "STOPPED",
            JobStatus::Deleting => "DELETING",
            JobStatus::Deleted => "DELETED",
        }
    }

    /// Whether the job holds its source and its target: neither may have another such job.
    #[must_use]
    pub const fn is_unfinished(self) -> bool {
        matches!(
            self,
            JobStatus::Pending
                | JobStatus::Running
                | JobStatus::Stopping
                | JobStatus::Stopped
                | JobStatus::Deleting
        )
    }

    /// Whether the agent is at work on it.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, JobStatus::Running | JobStatus::Stopping)
    }

    /// What an event does in this status.
    #[must_use]
    pub fn on(self, event: JobEvent) -> JobStep {
        JOB_TABLE[event as usize].1[self as usize]
    }
}

mod job_columns {
    use super::{JobStatus, JobStep};
    pub(super) const RUN: JobStep = JobStep::Go(JobStatus::Running);
    pub(super) const SUCC: JobStep = JobStep::Go(JobStatus::Success);
    pub(super) const FAIL: JobStep = JobStep::Go(JobStatus::Failed);
    pub(super) const STOPG: JobStep = JobStep::Go(JobStatus::Stopping);
    pub(super) const STOPD: JobStep = JobStep::Go(JobStatus::Stopped);
    pub(super) const DELG: JobStep = JobStep::Go(JobStatus::Deleting);
    pub(super) const DELD: JobStep = JobStep::Go(JobStatus::Deleted);
    pub(super) const STAY: JobStep = JobStep::Stay;
    pub(super) const NO: JobStep = JobStep::No;
}

#[rustfmt::skip]
const JOB_TABLE: [(JobEvent, [JobStep; 8]); 13] = {
    use job_columns::{DELD, DELG, FAIL, NO, RUN, STAY, STOPD, STOPG, SUCC};
    use JobEvent::{CleanedUp, Delete, Due, Extend, Rename, Report, ReportFailed, ReportStopped, ReportSuccess, Retarget, SourceLost, Start, Stop};
    [   //               PENDING RUNNING SUCCESS FAILED STOPPING STOPPED DELETING DELETED
        (Start,         [RUN,    NO,     NO,     RUN,   NO,      RUN,    NO,      NO]),
        (Due,           [RUN,    NO,     NO,     NO,    NO,      NO,     NO,      NO]),
        (Stop,          [NO,     STOPG,  NO,     NO,    NO,      NO,     NO,      NO]),
        (Delete,        [DELG,   NO,     DELG,   DELG,  NO,      DELG,   NO,      NO]),
        (Rename,        [STAY,   STAY,   STAY,   STAY,  STAY,    STAY,   NO,      NO]),
        (Retarget,      [STAY,   NO,     NO,     STAY,  NO,      NO,     NO,      NO]),
        (Extend,        [STAY,   STAY,   NO,     STAY,  NO,      STAY,   NO,      NO]),
        (Report,        [NO,     STAY,   NO,     NO,    STAY,    NO,     NO,      NO]),
        (ReportStopped, [NO,     STOPD,  NO,     NO,    STOPD,   STAY,   NO,      NO]),
        (ReportSuccess, [NO,     SUCC,   STAY,   NO,    SUCC,    NO,     NO,      NO]),
        (ReportFailed,  [NO,     FAIL,   NO,     STAY,  FAIL,    NO,     NO,      NO]),
        (SourceLost,    [STAY,   STAY,   STAY,   STAY,  STOPD,   STAY,   STAY,    STAY]),
        (CleanedUp,     [NO,     NO,     NO,     NO,    NO,      NO,     DELD,    STAY]),
    ]
};

/// Status of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SourceStatus {
    /// Silent for too long, or said good-bye.
    Offline,
    /// Heard from, without a running job.
    Online,
    /// Heard from, with a running job.
    Migrating,
    /// Being removed.
    Deleting,
    /// Gone; kept for the record.
    Deleted,
}

/// What can happen to a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// A sign of life, with no job running.
    Idle,
    /// A sign of life, with a job running.
    Busy,
    /// No sign of life for too long, or the agent said good-bye.
    Lost,
    /// A user makes a job for it.
    CreateJob,
    /// A job of it starts.
    StartJob,
    /// The user changes its name or description, or the agent reports.
    Modify,
    /// The user deletes it.
    Delete,
}

/// What an event does to a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStep {
    /// The status becomes another.
    Go(SourceStatus),
    /// Allowed, and the status stays.
    Stay,
    /// Refused, with this code.
    No(Code),
}

impl SourceStatus {
    /// All, in the order of the table's columns.
    pub const ALL: [SourceStatus; 5] = [
        SourceStatus::Offline,
        SourceStatus::Online,
        SourceStatus::Migrating,
        SourceStatus::Deleting,
        SourceStatus::Deleted,
    ];

    /// The text on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            SourceStatus::Offline => "OFFLINE",
            SourceStatus::Online => "ONLINE",
            SourceStatus::Migrating => "MIGRATING",
            SourceStatus::Deleting => "DELETING",
            SourceStatus::Deleted => "DELETED",
        }
    }

    /// What an event does in this status.
    #[must_use]
    pub fn on(self, event: SourceEvent) -> SourceStep {
        SOURCE_TABLE[event as usize].1[self as usize]
    }
}

mod source_columns {
    use super::{Code, SourceStatus, SourceStep};
    pub(super) const OFF: SourceStep = SourceStep::Go(SourceStatus::Offline);
    pub(super) const ON: SourceStep = SourceStep::Go(SourceStatus::Online);
    pub(super) const MIGR: SourceStep = SourceStep::Go(SourceStatus::Migrating);
    pub(super) const DELD: SourceStep = SourceStep::Go(SourceStatus::Deleted);
    pub(super) const STAY: SourceStep = SourceStep::Stay;
    /// Not online.
    pub(super) const DOWN: SourceStep = SourceStep::No(Code::InvalidLiveMigrateOnlineSourceServerId);
    /// Its job is in the way.
    pub(super) const BUSY: SourceStep = SourceStep::No(Code::SourceServerRelatedUnFinishedJob);
    /// Its status is in the way.
    pub(super) const WRONG: SourceStep = SourceStep::No(Code::SourceServerStatusNotSupport);
    /// There is none.
    pub(super) const GONE: SourceStep = SourceStep::No(Code::InvalidLiveMigrateSourceServerId);
}

#[rustfmt::skip]
const SOURCE_TABLE: [(SourceEvent, [SourceStep; 5]); 7] = {
    use source_columns::{BUSY, DELD, DOWN, GONE, MIGR, OFF, ON, STAY, WRONG};
    use SourceEvent::{Busy, CreateJob, Delete, Idle, Lost, Modify, StartJob};
    [   //           OFFLINE ONLINE MIGRATING DELETING DELETED
        (Idle,      [ON,     STAY,  ON,       STAY,    GONE]),
        (Busy,      [MIGR,   MIGR,  STAY,     STAY,    GONE]),
        (Lost,      [STAY,   OFF,   OFF,      STAY,    STAY]),
        (CreateJob, [DOWN,   STAY,  BUSY,     DOWN,    DOWN]),
        (StartJob,  [WRONG,  STAY,  WRONG,    WRONG,   GONE]),
        (Modify,    [STAY,   STAY,  STAY,     STAY,    GONE]),
        (Delete,    [DELD,   DELD,  WRONG,    DELD,    GONE]),
    ]
};

/// Job actions of the API that can be denied, and the event that each of them is.
pub const JOB_ACTIONS: [(&str, JobEvent); 4] = [
    ("StartMigrationJob", JobEvent::Start),
    ("StopMigrationJob", JobEvent::Stop),
    ("DeleteMigrationJob", JobEvent::Delete),
    ("ModifyMigrationJob", JobEvent::Rename),
];

/// Source actions of the API that can be denied, and the event that each of them is.
pub const SOURCE_ACTIONS: [(&str, SourceEvent); 3] = [
    ("CreateMigrationJob", SourceEvent::CreateJob),
    ("ModifySourceServer", SourceEvent::Modify),
    ("DeleteSourceServer", SourceEvent::Delete),
];

#[cfg(test)]
mod tests;
