//! Records in one SQLite file: write-ahead log, `synchronous=FULL`, so that a commit survives power loss.
//!
//! The administrators' `key` command may write to the same file while a control plane runs; [`Store::changed_keys`] sees it
//! by SQLite's own version counter.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, TransactionBehavior, params};

use super::{MIGRATIONS, Net, SCHEMA_VERSION, Store, StoreError, StoreResult, bad_document, too_new};
use crate::records::{Audit, Key, Table};
use crate::world::{Change, World};

/// How long a commit waits for another process's: the `key` command writes one row.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Records in one file.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Connection,
    path: PathBuf,
    data_version: i64,
    lock: Option<Flock<File>>,
}

impl SqliteStore {
    /// Opens the file, and makes or migrates its tables.
    ///
    /// # Errors
    ///
    /// When the file cannot be used, or was made by a later version.
    pub fn open(path: &Path) -> StoreResult<Self> {
        let wrap = |source: rusqlite::Error| StoreError {
            operation: "open the database",
            place: path.display().to_string(),
            source: Box::new(source),
        };
        restrict(path)?;
        let mut connection = Connection::open(path).map_err(wrap)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(wrap)?;
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(wrap)?;
        connection
            .pragma_update(None, "synchronous", "FULL")
            .map_err(wrap)?;
        connection.set_prepared_statement_cache_capacity(64);
        migrate(&mut connection, path)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            data_version: -1,
            lock: None,
        })
    }

    fn fail(&self, operation: &'static str) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
        let place = self.path.display().to_string();
        move |source| StoreError {
            operation,
            place: place.clone(),
            source: Box::new(source),
        }
    }
}

/// Makes the file, readable for its owner only, before SQLite would make it readable for all.
fn restrict(path: &Path) -> StoreResult<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let open = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path);
    open.map(drop).map_err(|source| StoreError {
        operation: "create the database",
        place: path.display().to_string(),
        source: Box::new(source),
    })
}

fn migrate(connection: &mut Connection, path: &Path) -> StoreResult<()> {
    let wrap = |source: rusqlite::Error| StoreError {
        operation: "migrate the database",
        place: path.display().to_string(),
        source: Box::new(source),
    };
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(wrap)?;
    let version: i64 = transaction
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(wrap)?;
    if version > SCHEMA_VERSION {
        return Err(too_new(&path.display().to_string(), version));
    }
    for statements in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
        for statement in *statements {
            transaction.execute_batch(statement).map_err(wrap)?;
        }
    }
    transaction
        .pragma_update(None, "user_version", SCHEMA_VERSION)
        .map_err(wrap)?;
    transaction.commit().map_err(wrap)
}

impl Store for SqliteStore {
    fn lock(&mut self) -> StoreResult<()> {
        let path = self.path.with_extension("lock");
        let wrap = |source: Box<dyn std::error::Error + Send + Sync>| StoreError {
            operation: "lock the database",
            place: path.display().to_string(),
            source,
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| wrap(Box::new(error)))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| wrap("another control plane uses it; stop that one first".into()))?;
        self.lock = Some(lock);
        Ok(())
    }

    fn load(&mut self) -> StoreResult<World> {
        let mut world = World::default();
        let fail = self.fail("read the database");
        let place = self.path.display().to_string();
        for table in Table::ALL {
            let mut statement = self
                .connection
                .prepare(&format!("SELECT document FROM {}", table.name()))
                .map_err(&fail)?;
            let mut rows = statement.query([]).map_err(&fail)?;
            while let Some(row) = rows.next().map_err(&fail)? {
                let document: String = row.get(0).map_err(&fail)?;
                world
                    .insert_document(table, &document)
                    .map_err(|error| bad_document(table, &place, error))?;
            }
        }
        let mut statement = self
            .connection
            .prepare("SELECT mark, expires FROM seen")
            .map_err(&fail)?;
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(&fail)?;
        world.seen = rows.collect::<Result<_, _>>().map_err(&fail)?;
        Ok(world)
    }

    fn commit(&mut self, changes: &[Change]) -> StoreResult<()> {
        let fail = self.fail("write to the database");
        let net = Net::of(changes);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&fail)?;
        for ((table, id), document) in &net.records {
            match document {
                Some(document) => transaction
                    .prepare_cached(&format!(
                        "INSERT OR REPLACE INTO {table} (id, document) VALUES (?1, ?2)"
                    ))
                    .and_then(|mut statement| statement.execute(params![id, document])),
                None => transaction
                    .prepare_cached(&format!("DELETE FROM {table} WHERE id = ?1"))
                    .and_then(|mut statement| statement.execute(params![id])),
            }
            .map_err(&fail)?;
        }
        for (mark, expires) in &net.seen {
            transaction
                .prepare_cached("INSERT OR REPLACE INTO seen (mark, expires) VALUES (?1, ?2)")
                .and_then(|mut statement| statement.execute(params![mark, expires]))
                .map_err(&fail)?;
        }
        for audit in &net.audit {
            transaction
                .prepare_cached(
                    "INSERT INTO audit (time, who, address, action, resource, result, request_id, routine) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )
                .and_then(|mut statement| {
                    statement.execute(params![
                        audit.time,
                        audit.who,
                        audit.address,
                        audit.action,
                        audit.resource,
                        audit.result,
                        audit.request_id,
                        i64::from(audit.routine)
                    ])
                })
                .map_err(&fail)?;
        }
        transaction.commit().map_err(&fail)
    }

    fn changed_keys(&mut self) -> StoreResult<Option<Vec<Key>>> {
        let fail = self.fail("read the keys");
        let version: i64 = self
            .connection
            .pragma_query_value(None, "data_version", |row| row.get(0))
            .map_err(&fail)?;
        if version == self.data_version {
            return Ok(None);
        }
        let place = self.path.display().to_string();
        let mut keys = Vec::new();
        let mut statement = self
            .connection
            .prepare_cached("SELECT document FROM access_key")
            .map_err(&fail)?;
        let mut rows = statement.query([]).map_err(&fail)?;
        while let Some(row) = rows.next().map_err(&fail)? {
            let document: String = row.get(0).map_err(&fail)?;
            keys.push(
                serde_json::from_str(&document).map_err(|error| bad_document(Table::Key, &place, error))?,
            );
        }
        drop(rows);
        drop(statement);
        self.data_version = version;
        Ok(Some(keys))
    }

    fn audit(&mut self, before: i64, limit: i64) -> StoreResult<Vec<Audit>> {
        let fail = self.fail("read the audit trail");
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT sequence, time, who, address, action, resource, result, request_id, routine FROM audit \
                 WHERE sequence < ?1 ORDER BY sequence DESC LIMIT ?2",
            )
            .map_err(&fail)?;
        let rows = statement.query_map(params![before, limit], |row| {
            Ok(Audit {
                sequence: row.get(0)?,
                time: row.get(1)?,
                who: row.get(2)?,
                address: row.get(3)?,
                action: row.get(4)?,
                resource: row.get(5)?,
                result: row.get(6)?,
                request_id: row.get(7)?,
                routine: row.get::<_, i64>(8)? != 0,
            })
        });
        rows.and_then(Iterator::collect).map_err(&fail)
    }

    fn prune(&mut self, now: i64, audit_before: i64, routine_before: i64) -> StoreResult<()> {
        let fail = self.fail("prune the database");
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(&fail)?;
        transaction
            .execute("DELETE FROM seen WHERE expires < ?1", params![now])
            .map_err(&fail)?;
        for (routine, before) in [(0, audit_before), (1, routine_before)] {
            transaction
                .execute(
                    "DELETE FROM audit WHERE routine = ?1 AND time < ?2",
                    params![routine, before],
                )
                .map_err(&fail)?;
        }
        transaction.commit().map_err(&fail)
    }
}
