//! What the control plane remembers, as stored.
//!
//! Each record is one JSON document in one table. Member names are those of the API where the API has them, so that an
//! answer is the record less its `Internal` part.

mod instance;
mod job;
mod key;
mod source;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use instance::{Image, Instance, InstanceState, Migration, MigrationPhase, Owner};
pub use job::{Job, JobInternal};
pub use key::{Enrolment, Key, Temporary};
pub use source::{Source, SourceInternal};

/// The tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// Migration jobs.
    Job,
    /// Source servers.
    Source,
    /// Target and transit instances.
    Instance,
    /// Images.
    Image,
    /// Access keys.
    Key,
    /// Enrolment codes.
    Enrolment,
}

impl Table {
    /// All tables.
    pub const ALL: [Table; 6] = [
        Table::Job,
        Table::Source,
        Table::Instance,
        Table::Image,
        Table::Key,
        Table::Enrolment,
    ];

    /// The table's name in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Table::Job => "job",
            Table::Source => "source",
            Table::Instance => "instance",
            Table::Image => "image",
            Table::Key => "access_key",
            Table::Enrolment => "enrolment",
        }
    }
}

/// A kind of record.
pub trait Record: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// Where it is kept.
    const TABLE: Table;

    /// What it is found by.
    fn id(&self) -> &str;

    /// The stored document.
    fn document(&self) -> String {
        serde_json::to_string(self).expect("records serialise")
    }
}

/// A record as an answer: its members less what is internal.
fn render<R: Record>(record: &R) -> Value {
    let mut value = serde_json::to_value(record).expect("records serialise");
    if let Value::Object(members) = &mut value {
        members.remove("Internal");
    }
    value
}

/// One mutating call: who, when, from where, what, with what result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Number in order, given by the database.
    pub sequence: i64,
    /// Seconds since 1970.
    pub time: i64,
    /// The SecretId that signed.
    pub who: String,
    /// Address of the peer.
    pub address: String,
    /// The action.
    pub action: String,
    /// The resource that was meant, as far as the request names one.
    pub resource: String,
    /// `OK` or the error code.
    pub result: String,
    /// The request's id.
    pub request_id: String,
    /// Whether it is one of the many routine reports, which are kept for a shorter time.
    pub routine: bool,
}

impl Audit {
    /// As an answer.
    #[must_use]
    pub fn render(&self) -> Value {
        let mut members = Map::new();
        members.insert("Sequence".into(), self.sequence.into());
        members.insert("Time".into(), crate::clock::text(self.time).into());
        members.insert("Who".into(), self.who.clone().into());
        members.insert("Address".into(), self.address.clone().into());
        members.insert("Action".into(), self.action.clone().into());
        members.insert("Resource".into(), self.resource.clone().into());
        members.insert("Result".into(), self.result.clone().into());
        members.insert("RequestId".into(), self.request_id.clone().into());
        Value::Object(members)
    }
}
