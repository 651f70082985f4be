//! Work on its way from the walk to the senders: batches of tasks through a bounded queue.

use std::ffi::CString;
use std::sync::{Arc, Condvar, Mutex};

use crossbeam_channel::{Receiver, Sender};

use crate::error::{Error, Kind, Result};
use crate::limits;
use crate::tree::capture::{FileKind, Stat};
use crate::tree::entry::{Entry, EntryPath};
use crate::tree::long::LongFile;
use crate::tree::operation::Operation;
use crate::tree::scan::OpenDirectory;

/// Tasks of one batch: more would make the last batches of a round uneven.
const BATCH_TASKS_MAX: usize = 512;
/// Directories that one batch keeps open, where the process may have so many: with 16 senders, as many batches at work and twice
/// as many waiting, and 9 being gathered, 57 × 64 descriptors.
const BATCH_DIRECTORIES_MAX: usize = 64;
/// Batches that are being gathered: one by each thread of a walk, and one by who leads it.
const BATCHES_GATHERED_MAX: usize = super::round::WALKERS_MAX + 1;
/// Batches that wait, per sender: enough that a sender never waits for the walk's scheduling.
const BATCHES_PER_SENDER: usize = 2;

/// One thing to do for a sender.
pub enum Task {
    /// An entry that is new or may have changed: read it, send what differs.
    Entry(Box<File>),
    /// A directory that the target does not have.
    Directory(EntryPath),
    /// An entry that is gone.
    Remove(EntryPath),
    /// Something that needs no reading.
    Operation(Box<Operation>),
}

/// An entry to read; directories excepted.
pub struct File {
    /// The directory it is in.
    pub directory: Arc<OpenDirectory>,
    /// Its name there.
    pub name: CString,
    /// Its path.
    pub path: EntryPath,
    /// Its status when the walk saw it.
    pub stat: Stat,
    /// What the baseline knows.
    pub known: Option<Entry>,
    /// Its other names: they become links when it is done.
    pub other_names: Vec<EntryPath>,
    /// Whether the target has this very inode, whose other names must see the new content.
    pub rewrite: bool,
}

/// What travels through the queue.
pub enum Item {
    /// Tasks, in order.
    Tasks(Vec<Task>),
    /// Help with a long file.
    Help(Arc<LongFile>),
}

/// The queue, and the count of what is under way.
pub struct Dispatcher {
    sender: Sender<Item>,
    receiver: Receiver<Item>,
    under_way: Mutex<UnderWay>,
    changed: Condvar,
    /// Directories that one batch may keep open.
    directories_max: usize,
    /// Dropped when the dispatcher is closed: that wakes whoever waits at `closed`.
    open: Mutex<Option<Sender<()>>>,
    closed: Receiver<()>,
}

#[derive(Default)]
struct UnderWay {
    items: usize,
    broken: bool,
}

impl Dispatcher {
    /// A queue for so many senders.
    pub fn new(senders: usize) -> Self {
        let (sender, receiver) = crossbeam_channel::bounded(senders * BATCHES_PER_SENDER);
        let (open, closed) = crossbeam_channel::bounded(0);
        Self {
            sender,
            receiver,
            under_way: Mutex::default(),
            changed: Condvar::new(),
            directories_max: directories_max(senders, sys::descriptors::limit()),
            open: Mutex::new(Some(open)),
            closed,
        }
    }

    /// Queues an item; waits while the queue is full.
    ///
    /// # Errors
    /// The session broke.
    pub fn push(&self, item: Item) -> Result<()> {
        {
            let mut under_way = self.lock();
            if under_way.broken {
                return Err(over());
            }
            under_way.items += 1;
        }
        crossbeam_channel::select! {
            send(self.sender, item) -> sent => sent.map_err(|_| over()),
            recv(self.closed) -> _ => Err(over()),
        }
    }

    /// Queues help if there is room for it; help is never necessary.
    pub fn offer_help(&self, file: &Arc<LongFile>) {
        self.lock().items += 1;
        if self.sender.try_send(Item::Help(Arc::clone(file))).is_err() {
            self.done(1);
        }
    }

    /// An item if one is waiting.
    pub fn try_next(&self) -> Option<Item> {
        self.receiver.try_recv().ok()
    }

    /// The next item; `None` when the session broke or [`Dispatcher::close`] was called.
    pub fn next(&self) -> Option<Item> {
        crossbeam_channel::select! {
            recv(self.receiver) -> item => item.ok(),
            recv(self.closed) -> _ => None,
        }
    }

    /// Notes that so many items are through: read, sent, numbered.
    pub fn done(&self, items: usize) {
        let mut under_way = self.lock();
        under_way.items -= items;
        if under_way.items == 0 {
            self.changed.notify_all();
        }
    }

    /// Waits until nothing is under way.
    ///
    /// # Errors
    /// The session broke.
    pub fn wait_idle(&self) -> Result<()> {
        let mut under_way = self.lock();
        while under_way.items > 0 && !under_way.broken {
            under_way = self.changed.wait(under_way).expect("not poisoned");
        }
        if under_way.broken { Err(over()) } else { Ok(()) }
    }

    /// Ends it: senders and walkers return.
    pub fn close(&self) {
        self.lock().broken = true;
        self.changed.notify_all();
        self.open.lock().expect("not poisoned").take();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, UnderWay> {
        self.under_way.lock().expect("not poisoned")
    }
}

/// How many directories a batch may keep open, so that all batches take no more than half of what the process may open: the rest
/// is for the way down to where the walk is, for connections, spools and the replica.
fn directories_max(senders: usize, descriptors: u64) -> usize {
    let batches = senders * (1 + BATCHES_PER_SENDER) + BATCHES_GATHERED_MAX;
    let share = descriptors / 2 / batches as u64;
    usize::try_from(share)
        .unwrap_or(usize::MAX)
        .clamp(1, BATCH_DIRECTORIES_MAX)
}

fn over() -> Error {
    Error::new(Kind::Retry, "go on: the session is over")
}

/// Gathers one walker's tasks into batches of a frame's size.
pub struct Work<'a> {
    dispatcher: &'a Dispatcher,
    tasks: Vec<Task>,
    bytes: u64,
    directories: usize,
    last_directory: Option<Arc<OpenDirectory>>,
}

impl<'a> Work<'a> {
    /// Nothing yet.
    pub fn new(dispatcher: &'a Dispatcher) -> Self {
        Self {
            dispatcher,
            tasks: Vec::new(),
            bytes: 0,
            directories: 0,
            last_directory: None,
        }
    }

    /// Adds a task; queues the batch when it is full.
    ///
    /// # Errors
    /// The session broke.
    pub fn push(&mut self, task: Task) -> Result<()> {
        if let Task::Entry(file) = &task {
            if file.stat.kind == FileKind::File {
                self.bytes += file.stat.size.min(limits::FRAME_RAW_LEN_TARGET as u64);
            }
            if !self
                .last_directory
                .as_ref()
                .is_some_and(|last| Arc::ptr_eq(last, &file.directory))
            {
                self.directories += 1;
                self.last_directory = Some(Arc::clone(&file.directory));
            }
        }
        self.tasks.push(task);
        let full = self.tasks.len() >= BATCH_TASKS_MAX
            || self.directories >= self.dispatcher.directories_max
            || self.bytes >= limits::FRAME_RAW_LEN_TARGET as u64;
        if full { self.finish() } else { Ok(()) }
    }

    /// Queues what is left.
    ///
    /// # Errors
    /// The session broke.
    pub fn finish(&mut self) -> Result<()> {
        (self.bytes, self.directories, self.last_directory) = (0, 0, None);
        if self.tasks.is_empty() {
            return Ok(());
        }
        self.dispatcher.push(Item::Tasks(std::mem::take(&mut self.tasks)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_as_many_directories_open_as_the_process_may() {
        assert_eq!(directories_max(4, 16_384), BATCH_DIRECTORIES_MAX);
        assert_eq!(directories_max(16, 16_384), BATCH_DIRECTORIES_MAX);
        assert_eq!(directories_max(16, 1024), 8);
        assert_eq!(directories_max(16, 64), 1);
        assert_eq!(directories_max(1, u64::MAX), BATCH_DIRECTORIES_MAX);
    }
}
