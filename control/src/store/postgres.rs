//! Records in PostgreSQL, over one connection that reconnects.
//!
//! A commit is one transaction of few statements, however many changes it holds: each table gets its rows as arrays. An
//! advisory lock keeps a second control plane out of the same database.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_postgres::{Client, Statement};

use super::postgres_connect::{BoxError, Target};
use super::{MIGRATIONS, Net, SCHEMA_VERSION, Store, StoreError, StoreResult, bad_document, too_new};
use crate::records::{Audit, Key, Table};
use crate::world::{Change, World};

/// The advisory lock's number: the letters "go2cloud".
const LOCK_KEY: i64 = i64::from_be_bytes(*b"go2cloud");

/// How long the server may take for one operation. A connection that a network swallowed gives no error by itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Records in a PostgreSQL database.
pub struct PostgresStore {
    runtime: Runtime,
    target: Target,
    connection: Connection,
    place: String,
    is_locked: bool,
    is_lost: bool,
    key_revision: Option<String>,
}

impl PostgresStore {
    /// Connects, and makes or migrates the tables.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached, or the tables are of a later version.
    pub fn open(url: &str, authorities: Option<&Path>) -> StoreResult<Self> {
        let target = Target::read(url, authorities.map(Path::to_owned)).map_err(|source| StoreError {
            operation: "read --database",
            place: "PostgreSQL".to_owned(),
            source,
        })?;
        let place = format!("PostgreSQL database {}", target.name());
        let fail = |operation| {
            let place = place.clone();
            move |source: BoxError| StoreError {
                operation,
                place,
                source,
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("postgres")
            .enable_all()
            .build()
            .map_err(|error| fail("start a thread")(Box::new(error)))?;
        let client = runtime
            .block_on(target.connect())
            .map_err(fail("connect to the database"))?;
        let mut store = Self {
            runtime,
            target,
            connection: Connection::new(client),
            place: place.clone(),
            is_locked: false,
            is_lost: false,
            key_revision: None,
        };
        store.migrate()?;
        Ok(store)
    }

    fn run<T>(
        &mut self,
        operation: &'static str,
        work: impl AsyncFnOnce(&mut Connection) -> Result<T, BoxError>,
    ) -> StoreResult<T> {
        let done = self
            .runtime
            .block_on(async { tokio::time::timeout(ANSWER_TIMEOUT, work(&mut self.connection)).await });
        let done = done.unwrap_or_else(|_| {
            self.is_lost = true;
            Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()).into())
        });
        done.map_err(|source| StoreError {
            operation,
            place: self.place.clone(),
            source,
        })
    }

    fn migrate(&mut self) -> StoreResult<()> {
        let version = self.run("migrate the database", async |connection| {
            let transaction = connection.client.transaction().await?;
            transaction
                .execute("SELECT pg_advisory_xact_lock($1)", &[&(LOCK_KEY + 1)])
                .await?;
            transaction
                .batch_execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")
                .await?;
            let row = transaction
                .query_opt("SELECT version FROM schema_version", &[])
                .await?;
            let version: i64 = row.map_or(0, |row| row.get(0));
            for statements in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
                for statement in *statements {
                    transaction.batch_execute(&dialect(statement)).await?;
                }
            }
            if version < SCHEMA_VERSION {
                transaction.execute("DELETE FROM schema_version", &[]).await?;
                transaction
                    .execute("INSERT INTO schema_version VALUES ($1)", &[&SCHEMA_VERSION])
                    .await?;
            }
            transaction.commit().await?;
            Ok(version)
        })?;
        if version > SCHEMA_VERSION {
            Err(too_new(&self.place, version))
        } else {
            Ok(())
        }
    }

    /// Connects again if the connection was lost, and takes the lock again if it was held.
    fn revive(&mut self) -> StoreResult<()> {
        if !self.is_lost && !self.connection.client.is_closed() {
            return Ok(());
        }
        let is_locked = self.is_locked;
        let target = &self.target;
        let connected = self.runtime.block_on(async {
            let client = target.connect().await?;
            // Without the lock the connection is not used: another control plane may have the database by now.
            if is_locked {
                take_lock(&client).await?;
            }
            Ok(client)
        });
        let client = connected.map_err(|source: BoxError| StoreError {
            operation: "connect to the database again",
            place: self.place.clone(),
            source,
        })?;
        self.connection = Connection::new(client);
        self.is_lost = false;
        Ok(())
    }
}

/// A connection, and the statements that the server has parsed for it already.
struct Connection {
    client: Client,
    statements: HashMap<String, Statement>,
}

impl Connection {
    fn new(client: Client) -> Self {
        Self {
            client,
            statements: HashMap::new(),
        }
    }

    /// Has a statement parsed once: a commit then takes one exchange for each of its few statements.
    async fn prepare(&mut self, text: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.get(text) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(text).await?;
        self.statements.insert(text.to_owned(), statement.clone());
        Ok(statement)
    }
}

async fn take_lock(client: &Client) -> Result<(), BoxError> {
    let row = client
        .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK_KEY])
        .await?;
    if row.get(0) {
        Ok(())
    } else {
        Err("another control plane uses it; stop that one first".into())
    }
}

/// The one statement that the two databases spell differently.
fn dialect(statement: &str) -> String {
    statement.replace(
        "sequence INTEGER PRIMARY KEY",
        "sequence BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    )
}

impl Store for PostgresStore {
    fn lock(&mut self) -> StoreResult<()> {
        self.run("lock the database", async |connection| {
            take_lock(&connection.client).await
        })?;
        self.is_locked = true;
        Ok(())
    }

    fn load(&mut self) -> StoreResult<World> {
        self.revive()?;
        let mut world = World::default();
        for table in Table::ALL {
            let query = format!("SELECT document FROM {}", table.name());
            let rows = self.run("read the database", async |connection| {
                Ok(connection.client.query(&query, &[]).await?)
            })?;
            for row in rows {
                let document: &str = row.get(0);
                world
                    .insert_document(table, document)
                    .map_err(|error| bad_document(table, &self.place, error))?;
            }
        }
        let rows = self.run("read the database", async |connection| {
            Ok(connection
                .client
                .query("SELECT mark, expires FROM seen", &[])
                .await?)
        })?;
        world.seen = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(world)
    }

    fn commit(&mut self, changes: &[Change]) -> StoreResult<()> {
        let net = Net::of(changes);
        let mut put: BTreeMap<&str, (Vec<&str>, Vec<&str>)> = BTreeMap::new();
        let mut gone: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for ((table, id), document) in &net.records {
            match document {
                Some(document) => {
                    let (ids, documents) = put.entry(table).or_default();
                    ids.push(id);
                    documents.push(document);
                }
                None => gone.entry(table).or_default().push(id),
            }
        }
        let marks: Vec<&str> = net.seen.keys().copied().collect();
        let expiries: Vec<i64> = net.seen.values().copied().collect();
        self.run("write to the database", async |connection| {
            let mut puts = Vec::new();
            for (table, (ids, documents)) in &put {
                puts.push((connection.prepare(&put_statement(table)).await?, ids, documents));
            }
            let mut removals = Vec::new();
            for (table, ids) in &gone {
                let statement = format!("DELETE FROM {table} WHERE id = ANY($1)");
                removals.push((connection.prepare(&statement).await?, ids));
            }
            let (seen, audit) = (connection.prepare(SEEN).await?, connection.prepare(AUDIT).await?);
            let transaction = connection.client.transaction().await?;
            for (statement, ids, documents) in puts {
                transaction.execute(&statement, &[ids, documents]).await?;
            }
            for (statement, ids) in removals {
                transaction.execute(&statement, &[ids]).await?;
            }
            if !marks.is_empty() {
                transaction.execute(&seen, &[&marks, &expiries]).await?;
            }
            if !net.audit.is_empty() {
                insert_audit(&transaction, &audit, &net.audit).await?;
            }
            transaction.commit().await?;
            Ok(())
        })
    }

    fn changed_keys(&mut self) -> StoreResult<Option<Vec<Key>>> {
        // The table's own bookkeeping says whether anything changed: greatest row version and number of rows.
        let row = self.run("read the keys", async |connection| {
            let query = "SELECT concat(count(*), ' ', max(xmin::text::bigint), ' ', sum(xmin::text::bigint)) FROM access_key";
            Ok(connection.client.query_one(query, &[]).await?)
        })?;
        let revision: String = row.get(0);
        if self.key_revision.as_ref() == Some(&revision) {
            return Ok(None);
        }
        let rows = self.run("read the keys", async |connection| {
            Ok(connection
                .client
                .query("SELECT document FROM access_key", &[])
                .await?)
        })?;
        let read = |row: &tokio_postgres::Row| {
            serde_json::from_str(row.get(0)).map_err(|error| bad_document(Table::Key, &self.place, error))
        };
        let keys = rows.iter().map(read).collect::<StoreResult<_>>()?;
        self.key_revision = Some(revision);
        Ok(Some(keys))
    }

    fn audit(&mut self, before: i64, limit: i64) -> StoreResult<Vec<Audit>> {
        let rows = self.run("read the audit trail", async |connection| {
            let query = "SELECT sequence, time, who, address, action, resource, result, request_id, routine FROM audit \
                         WHERE sequence < $1 ORDER BY sequence DESC LIMIT $2";
            Ok(connection.client.query(query, &[&before, &limit]).await?)
        })?;
        let read = |row: &tokio_postgres::Row| Audit {
            sequence: row.get(0),
            time: row.get(1),
            who: row.get(2),
            address: row.get(3),
            action: row.get(4),
            resource: row.get(5),
            result: row.get(6),
            request_id: row.get(7),
            routine: row.get::<_, i64>(8) != 0,
        };
        Ok(rows.iter().map(read).collect())
    }

    fn prune(&mut self, now: i64, audit_before: i64, routine_before: i64) -> StoreResult<()> {
        self.run("prune the database", async |connection| {
            let transaction = connection.client.transaction().await?;
            transaction
                .execute("DELETE FROM seen WHERE expires < $1", &[&now])
                .await?;
            let expired = "DELETE FROM audit WHERE routine = $1 AND time < $2";
            transaction.execute(expired, &[&0_i64, &audit_before]).await?;
            transaction.execute(expired, &[&1_i64, &routine_before]).await?;
            transaction.commit().await?;
            Ok(())
        })
    }
}

/// Adds or replaces records of a table, given as arrays.
fn put_statement(table: &str) -> String {
    format!(
        "INSERT INTO {table} (id, document) SELECT * FROM unnest($1::text[], $2::text[]) \
         ON CONFLICT (id) DO UPDATE SET document = excluded.document"
    )
}

const SEEN: &str = "INSERT INTO seen (mark, expires) SELECT * FROM unnest($1::text[], $2::bigint[]) \
                    ON CONFLICT (mark) DO UPDATE SET expires = excluded.expires";

const AUDIT: &str = "INSERT INTO audit (time, who, address, action, resource, result, request_id, routine) SELECT * FROM \
    unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[])";

async fn insert_audit(
    transaction: &tokio_postgres::Transaction<'_>,
    statement: &Statement,
    records: &[&Audit],
) -> Result<(), tokio_postgres::Error> {
    let numbers = |part: fn(&Audit) -> i64| -> Vec<i64> { records.iter().map(|audit| part(audit)).collect() };
    let texts = |part: fn(&Audit) -> &str| -> Vec<&str> { records.iter().map(|audit| part(audit)).collect() };
    transaction
        .execute(
            statement,
            &[
                &numbers(|audit| audit.time),
                &texts(|audit| &audit.who),
                &texts(|audit| &audit.address),
                &texts(|audit| &audit.action),
                &texts(|audit| &audit.resource),
                &texts(|audit| &audit.result),
                &texts(|audit| &audit.request_id),
                &numbers(|audit| i64::from(audit.routine)),
            ],
        )
        .await
        .map(drop)
}
