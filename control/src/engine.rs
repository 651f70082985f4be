//! The one place where the world changes.
//!
//! A change is made in memory under a lock, handed to the writer in the same order, and answered only when the writer says
//! that it is durable. A reader who saw something not yet durable waits as well: whatever was answered survives a crash.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::code::{ApiError, ApiResult, Code};
use crate::records::{Audit, Key};
use crate::schema::Effect;
use crate::store::{Order, Store, StoreResult, Writer};
use crate::world::{Change, Transaction, World};

/// The world and its writer.
pub struct Engine {
    world: Arc<Mutex<World>>,
    writer: Writer,
}

fn not_stored() -> ApiError {
    ApiError::new(
        Code::ResourceUnavailable,
        "the database does not answer; ask for the state before you try again",
    )
}

impl Engine {
    /// Loads the world and starts the writer.
    ///
    /// # Errors
    ///
    /// When the database cannot be read or is used by another control plane.
    pub fn start(mut store: Box<dyn Store>) -> anyhow::Result<Self> {
        store.lock()?;
        let world = Arc::new(Mutex::new(store.load()?));
        let writer = Writer::start(store, world.clone())?;
        Ok(Self { world, writer })
    }

    fn lock(&self) -> ApiResult<MutexGuard<'_, World>> {
        let world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        if self.writer.is_healthy() {
            Ok(world)
        } else {
            Err(not_stored())
        }
    }

    /// Makes a change. It has happened, durably, when this returns well; otherwise it has not.
    ///
    /// # Errors
    ///
    /// What the change itself says, or that the database failed.
    pub async fn change<T>(&self, change: impl FnOnce(&mut Transaction<'_>) -> ApiResult<T>) -> ApiResult<T> {
        let (value, waiting) = self.begin(change)?;
        if let Some(waiting) = waiting {
            waiting.await.map_err(|_| not_stored())?;
        }
        Ok(value)
    }

    fn begin<T>(
        &self,
        change: impl FnOnce(&mut Transaction<'_>) -> ApiResult<T>,
    ) -> ApiResult<(T, Option<oneshot::Receiver<()>>)> {
        let mut world = self.lock()?;
        let mut transaction = Transaction::new(&mut world);
        match change(&mut transaction) {
            Ok(value) => {
                let changes = transaction.finish();
                let wait = !changes.is_empty() || self.writer.is_behind();
                Ok((value, wait.then(|| self.writer.commit(changes))))
            }
            Err(error) => {
                transaction.abandon();
                Err(error)
            }
        }
    }

    /// Reads. What it saw is durable when this returns.
    ///
    /// # Errors
    ///
    /// What the reading itself says, or that the database failed.
    pub async fn read<T>(&self, read: impl FnOnce(&World) -> ApiResult<T>) -> ApiResult<T> {
        let (value, waiting) = {
            let world = self.lock()?;
            let value = read(&world)?;
            (
                value,
                self.writer.is_behind().then(|| self.writer.commit(Vec::new())),
            )
        };
        if let Some(waiting) = waiting {
            waiting.await.map_err(|_| not_stored())?;
        }
        Ok(value)
    }

    /// Accepts a request's mark, unless it was accepted before. It is remembered on disk no later than what the request
    /// changes, because it goes to the writer first.
    ///
    /// # Errors
    ///
    /// `AuthFailure.SignatureFailure` for a mark that is known.
    pub fn admit(&self, mark: &str, expires: i64, effect: Effect) -> ApiResult<()> {
        let mut world = self.lock()?;
        if world.seen.contains_key(mark) {
            let message =
                "this request was accepted before; sign it again, with another nonce or a later timestamp";
            return Err(ApiError::new(Code::SignatureFailure, message));
        }
        world.seen.insert(mark.to_owned(), expires);
        if effect != Effect::Read {
            drop(self.writer.commit(vec![Change::Seen {
                mark: mark.to_owned(),
                expires,
            }]));
        }
        Ok(())
    }

    /// Looks at the world for the control plane's own purposes; nothing of it may be answered.
    pub fn peek<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes down a call that changed nothing, or whose changes are made already.
    pub async fn note(&self, audit: Audit) {
        let waiting = match self.lock() {
            Ok(_world) => self.writer.commit(vec![Change::Audit(audit)]),
            Err(_) => return,
        };
        drop(waiting.await);
    }

    /// Takes over keys that another process changed.
    pub async fn refresh_keys(&self) {
        let (reply, answer) = oneshot::channel();
        self.writer.give(Order::Keys(reply));
        match answer.await {
            Ok(Ok(Some(keys))) => self.adopt_keys(keys),
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) => tracing::error!(%error, "keys changed by other programs are not seen"),
        }
    }

    /// Temporary credentials are this process's own; only account keys can have been changed by another.
    fn adopt_keys(&self, keys: Vec<Key>) {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fresh = std::collections::BTreeSet::new();
        for key in keys.into_iter().filter(|key| key.temporary.is_none()) {
            fresh.insert(key.secret_id.clone());
            world.keys.insert(key.secret_id.clone(), Arc::new(key));
        }
        world
            .keys
            .retain(|id, key| key.temporary.is_some() || fresh.contains(id));
    }

    /// Reads audit records, newest first.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub async fn audit(&self, before: i64, limit: i64) -> ApiResult<Vec<Audit>> {
        let (reply, answer) = oneshot::channel::<StoreResult<Vec<Audit>>>();
        self.writer.give(Order::Audit(before, limit, reply));
        answer.await.ok().and_then(Result::ok).ok_or_else(not_stored)
    }

    /// Removes what is too old from the database and from memory.
    pub fn prune(&self, now: i64, audit_before: i64, routine_before: i64) {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        world.seen.retain(|_, expires| *expires >= now);
        drop(world);
        self.writer.give(Order::Prune(now, audit_before, routine_before));
    }

    /// Ends after what is on its way.
    pub fn stop(&self) {
        self.writer.stop();
    }
}
