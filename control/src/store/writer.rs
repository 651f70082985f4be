//! The one thread that writes.
//!
//! It takes what has gathered in its queue, commits it as one transaction, and only then lets each caller answer: many
//! small changes share one flush to disk. When a commit fails, nothing that waits is answered as done, and the world is
//! read again from the database, so that memory never claims what the database does not have.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Store, StoreError, StoreResult};
use crate::records::{Audit, Key};
use crate::world::{Change, World};

/// Batches in one transaction: at 2 KiB each, half a megabyte per flush.
const BATCHES_MAX: usize = 256;
/// Pause between attempts to reach a database that failed.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What comes back from the thread.
pub type Reply<T> = oneshot::Sender<StoreResult<T>>;

/// What the thread is asked to do.
pub enum Order {
    /// Make changes durable; the answer comes when they are. No changes: answer when all before are.
    Commit(Vec<Change>, oneshot::Sender<()>),
    /// Read the keys again, if another process may have changed them.
    Keys(Reply<Option<Vec<Key>>>),
    /// Read audit records.
    Audit(i64, i64, Reply<Vec<Audit>>),
    /// Remove what is too old: now, audit before, routine audit before.
    Prune(i64, i64, i64),
    /// End.
    Stop,
}

/// What the thread shares with those who give it orders.
pub struct Writer {
    sender: Sender<Order>,
    pending: Arc<AtomicU64>,
    healthy: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Whether the thread goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    Stop,
}

struct Desk {
    store: Box<dyn Store>,
    receiver: Receiver<Order>,
    world: Arc<Mutex<World>>,
    pending: Arc<AtomicU64>,
    healthy: Arc<AtomicBool>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When there can be no thread.
    pub fn start(store: Box<dyn Store>, world: Arc<Mutex<World>>) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let pending = Arc::new(AtomicU64::new(0));
        let healthy = Arc::new(AtomicBool::new(true));
        let desk = Desk {
            store,
            receiver,
            world,
            pending: pending.clone(),
            healthy: healthy.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || desk.work())?;
        Ok(Self {
            sender,
            pending,
            healthy,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Whether the database answers.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }

    /// Whether changes are on their way that are not durable yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.pending.load(Ordering::Acquire) > 0
    }

    /// Hands changes over. Call it under the world's lock, so that the order is that of the changes.
    #[must_use]
    pub fn commit(&self, changes: Vec<Change>) -> oneshot::Receiver<()> {
        let (done, waiting) = oneshot::channel();
        self.pending.fetch_add(1, Ordering::AcqRel);
        self.give(Order::Commit(changes, done));
        waiting
    }

    /// Gives any other order. One given after [`Writer::stop`] is dropped, and its reply with it.
    pub fn give(&self, order: Order) {
        drop(self.sender.send(order));
    }

    /// Ends the thread after what is in the queue.
    pub fn stop(&self) {
        self.give(Order::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            drop(thread.join());
        }
    }
}

impl Desk {
    fn work(mut self) {
        while let Ok(first) = self.receiver.recv() {
            let mut changes = Vec::new();
            let mut waiting = Vec::new();
            let mut next = Some(first);
            let mut rest = None;
            while let Some(order) = next.take() {
                match order {
                    Order::Commit(more, done) => {
                        changes.extend(more);
                        waiting.push(done);
                    }
                    other => {
                        rest = Some(other);
                        break;
                    }
                }
                if waiting.len() < BATCHES_MAX {
                    next = self.receiver.try_recv().ok();
                }
            }
            if self.flush(&changes, waiting) == Next::Stop {
                return;
            }
            match rest {
                None | Some(Order::Commit(..)) => {}
                Some(Order::Stop) => return,
                Some(order) => {
                    if self.serve(order) == Next::Stop {
                        return;
                    }
                }
            }
        }
    }

    fn flush(&mut self, changes: &[Change], waiting: Vec<oneshot::Sender<()>>) -> Next {
        if waiting.is_empty() {
            return Next::Go;
        }
        let count = waiting.len() as u64;
        let result = if changes.is_empty() {
            Ok(())
        } else {
            self.store.commit(changes)
        };
        match result {
            Ok(()) => {
                self.pending.fetch_sub(count, Ordering::AcqRel);
                for done in waiting {
                    // A caller that hung up does not wait.
                    done.send(()).ok();
                }
                Next::Go
            }
            Err(error) => {
                self.healthy.store(false, Ordering::Release);
                self.pending.fetch_sub(count, Ordering::AcqRel);
                drop(waiting);
                self.recover(&error)
            }
        }
    }

    /// Reads the world again until that succeeds. Meanwhile requests are refused, and what waits is not answered as done.
    fn recover(&mut self, error: &StoreError) -> Next {
        tracing::error!(%error, "the database failed; requests are refused until it answers again");
        loop {
            let loaded = self.store.load();
            let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
            let mut stop = false;
            while let Ok(order) = self.receiver.try_recv() {
                match order {
                    Order::Commit(..) => {
                        self.pending.fetch_sub(1, Ordering::AcqRel);
                    }
                    Order::Stop => stop = true,
                    Order::Keys(_) | Order::Audit(..) | Order::Prune(..) => {}
                }
            }
            match loaded {
                Ok(loaded) => {
                    *world = loaded;
                    self.healthy.store(true, Ordering::Release);
                    tracing::info!("the database answers again");
                    return if stop { Next::Stop } else { Next::Go };
                }
                Err(error) => {
                    drop(world);
                    tracing::error!(%error, "the database still fails");
                    if stop {
                        return Next::Stop;
                    }
                    std::thread::sleep(RETRY_EVERY);
                }
            }
        }
    }

    /// Keys are asked for every second, so a database that was lost is noticed although nothing is written.
    fn serve(&mut self, order: Order) -> Next {
        match order {
            Order::Keys(reply) => match self.store.changed_keys() {
                Ok(keys) => drop(reply.send(Ok(keys))),
                Err(error) => {
                    self.healthy.store(false, Ordering::Release);
                    return self.recover(&error);
                }
            },
            Order::Audit(before, limit, reply) => drop(reply.send(self.store.audit(before, limit))),
            Order::Prune(now, audit, routine) => {
                if let Err(error) = self.store.prune(now, audit, routine) {
                    tracing::warn!(%error, "old audit records stay for now");
                }
            }
            Order::Commit(..) | Order::Stop => {}
        }
        Next::Go
    }
}
