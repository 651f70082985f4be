//! Where records are kept for good.
//!
//! One trait, two databases: SQLite in one file, PostgreSQL by URL. Both keep documents in one table per kind, plus the
//! audit trail and the marks against replay. A commit is atomic, and durable when it returns.

mod postgres;
mod postgres_connect;
mod postgres_tls;
mod sqlite;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::records::{Audit, Key, Table};
use crate::world::{Change, World};

pub use postgres::PostgresStore;
pub use sqlite::SqliteStore;
pub use writer::{Order, Reply, Writer};

/// Version of the schema. A database of a later version is refused.
const SCHEMA_VERSION: i64 = 1;

/// The statements that bring a database from each version to the next. Both databases understand them.
const MIGRATIONS: [&[&str]; 1] = [&[
    "CREATE TABLE job (id TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "CREATE TABLE source (id TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "CREATE TABLE instance (id TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "CREATE TABLE image (id TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "CREATE TABLE access_key (id TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "CREATE TABLE enrolment (id TEXT PRIMARY KEY, document TEXT NOT NULL)",
    "CREATE TABLE seen (mark TEXT PRIMARY KEY, expires BIGINT NOT NULL)",
    "CREATE TABLE audit (sequence INTEGER PRIMARY KEY, time BIGINT NOT NULL, who TEXT NOT NULL, address TEXT NOT NULL, \
     action TEXT NOT NULL, resource TEXT NOT NULL, result TEXT NOT NULL, request_id TEXT NOT NULL, routine BIGINT NOT NULL)",
    "CREATE INDEX audit_routine_time ON audit (routine, time)",
]];

/// A database that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} ({place}): {source}")]
pub struct StoreError {
    /// What was tried.
    pub operation: &'static str,
    /// Which database.
    pub place: String,
    /// Why.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The result of a database operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// A place where records are kept.
pub trait Store: Send {
    /// Takes the database for this process alone; fails if a control plane has it already.
    ///
    /// # Errors
    ///
    /// When it is taken, or cannot be reached.
    fn lock(&mut self) -> StoreResult<()>;

    /// Reads everything; reconnects first if the connection was lost.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    fn load(&mut self) -> StoreResult<World>;

    /// Makes changes, all or none, durable when it returns.
    ///
    /// # Errors
    ///
    /// When nothing was changed.
    fn commit(&mut self, changes: &[Change]) -> StoreResult<()>;

    /// The keys, if another process may have changed them since the last call.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    fn changed_keys(&mut self) -> StoreResult<Option<Vec<Key>>>;

    /// The newest audit records before a sequence number, newest first.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    fn audit(&mut self, before: i64, limit: i64) -> StoreResult<Vec<Audit>>;

    /// Removes expired marks, and audit records older than the times given, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// When nothing was removed.
    fn prune(&mut self, now: i64, audit_before: i64, routine_before: i64) -> StoreResult<()>;
}

/// Which database to use.
#[derive(Clone, Debug)]
pub enum Database {
    /// A file.
    Sqlite(PathBuf),
    /// A server, by `postgres://` URL.
    Postgres {
        /// The URL.
        url: String,
        /// Authorities to verify the server's certificate against; none for the system's.
        authorities: Option<PathBuf>,
    },
}

impl Database {
    /// The database of a data folder, unless a URL names another.
    ///
    /// # Errors
    ///
    /// When the URL is of no kind that is known.
    pub fn choose(data: &Path, url: Option<&str>, authorities: Option<PathBuf>) -> Result<Self, String> {
        match url {
            None => Ok(Self::Sqlite(data.join("control.db"))),
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
                Ok(Self::Postgres {
                    url: url.to_owned(),
                    authorities,
                })
            }
            Some(url) => match url.strip_prefix("sqlite:") {
                Some(path) => Ok(Self::Sqlite(PathBuf::from(path))),
                None => Err("--database must be postgres://USER@HOST/NAME or sqlite:FILE".to_owned()),
            },
        }
    }

    /// Opens it, and makes or migrates its tables.
    ///
    /// # Errors
    ///
    /// When it cannot be reached, or was made by a later version.
    pub fn open(&self) -> StoreResult<Box<dyn Store>> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(SqliteStore::open(path)?),
            Self::Postgres { url, authorities } => {
                Box::new(PostgresStore::open(url, authorities.as_deref())?)
            }
        })
    }
}

/// What a list of changes comes to: the last word on each record, the marks, the audit records.
struct Net<'c> {
    records: BTreeMap<(&'static str, &'c str), Option<&'c str>>,
    seen: BTreeMap<&'c str, i64>,
    audit: Vec<&'c Audit>,
}

impl<'c> Net<'c> {
    fn of(changes: &'c [Change]) -> Self {
        let mut net = Self {
            records: BTreeMap::new(),
            seen: BTreeMap::new(),
            audit: Vec::new(),
        };
        for change in changes {
            match change {
                Change::Put { table, id, document } => {
                    net.records.insert((table.name(), id), Some(document));
                }
                Change::Remove { table, id } => {
                    net.records.insert((table.name(), id), None);
                }
                Change::Seen { mark, expires } => {
                    net.seen.insert(mark, *expires);
                }
                Change::Audit(audit) => net.audit.push(audit),
            }
        }
        net
    }
}

/// A document that cannot be read as its table's record.
fn bad_document(table: Table, place: &str, source: serde_json::Error) -> StoreError {
    let operation = match table {
        Table::Job => "read a job",
        Table::Source => "read a source",
        Table::Instance => "read an instance",
        Table::Image => "read an image",
        Table::Key => "read a key",
        Table::Enrolment => "read an enrolment code",
    };
    StoreError {
        operation,
        place: place.to_owned(),
        source: Box::new(source),
    }
}

/// A database of a later version than this program knows.
fn too_new(place: &str, version: i64) -> StoreError {
    StoreError {
        operation: "open the database",
        place: place.to_owned(),
        source: format!(
            "its schema has version {version}, this program knows {SCHEMA_VERSION}; use a newer program"
        )
        .into(),
    }
}
